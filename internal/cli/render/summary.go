package render

import (
	"fmt"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// Summary is the line below a statement's answer: how much, how long, from where. took is the time of the whole call.
func Summary(result *datav1.ResultSet, answer *datav1.Answer, took time.Duration) string {
	amount := Count(result.GetRowsAffected(), "row") + " changed"
	if len(result.GetColumns()) > 0 {
		amount = Count(int64(len(result.GetRows())), "row")
	}
	line := fmt.Sprintf("(%s, %s, SQL %.2f ms, %s %s", amount, Milliseconds(took), answer.GetSqlMs(),
		answer.GetRegion(), source(answer))
	if answer.GetStalenessMs() > 0 {
		line += fmt.Sprintf(" at most %d ms old", answer.GetStalenessMs())
	}
	return line + ")"
}

// Milliseconds writes a duration as "1.8 ms".
func Milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// Count writes a number and its noun: "1 row", "15,607 rows".
func Count(n int64, noun string) string {
	if n != 1 {
		noun += plural(noun)
	}
	return Group(n) + " " + noun
}

func plural(noun string) string {
	if last := noun[len(noun)-1]; last == 'h' {
		return "es"
	}
	return "s"
}

// Group writes a number with a comma between thousands.
func Group(n int64) string {
	digits := fmt.Sprint(n)
	sign := ""
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}
