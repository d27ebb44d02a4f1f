package cli

import (
	"io"
	"strconv"
	"strings"
	"time"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/cli/render"
)

func fallbacksJSON(fallbacks []*controlv1.GetStatusResponse_Fallback) *[]fallbackJSON {
	list := make([]fallbackJSON, len(fallbacks))
	for i, f := range fallbacks {
		list[i] = fallbackJSON{
			Database: f.GetDatabase(), Reason: f.GetReason(), Count: f.GetCount(), Last: time.UnixMilli(f.GetLastUnixMs()).UTC(),
			Statement: f.GetStatement(),
		}
	}
	return &list
}

// showFallbacks writes the statements that regions left to the primary.
func showFallbacks(w io.Writer, regions []*controlv1.GetStatusResponse_Region) error {
	var rows [][]string
	for _, r := range regions {
		if strings.HasPrefix(r.GetReason(), "does not answer") {
			rows = append(rows, []string{r.GetName(), "", "", "", "", r.GetReason()})
		}
		for _, f := range r.GetFallbacks() {
			rows = append(rows, []string{
				r.GetName(), f.GetDatabase(), f.GetReason(), strconv.FormatUint(f.GetCount(), 10),
				time.UnixMilli(f.GetLastUnixMs()).UTC().Format(time.RFC3339), f.GetStatement(),
			})
		}
	}
	if len(rows) == 0 {
		_, err := io.WriteString(w, "every statement was answered in its region\n")
		return err
	}
	return render.Painted(w, []string{"region", "database", "reason", "count", "last", "statement"}, rows,
		[]bool{false, false, false, true}, nil)
}
