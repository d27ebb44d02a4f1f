package business

import (
	"net/http"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

const (
	headerETag    = "Etag"
	headerIfMatch = "If-Match"
)

// tagged returns an answer with one user, whose version is its entity tag.
func tagged[T any](msg *T, user *businessv1.User) *connect.Response[T] {
	res := connect.NewResponse(msg)
	if v := user.GetVersion(); v != 0 {
		res.Header().Set(headerETag, `"`+strconv.FormatUint(v, 10)+`"`)
	}
	return res
}

// precondition is what must hold of a row that is to change: it has the version that the request names, in a field or as an
// entity tag (RFC 9110, section 13.1.1), or it is there.
func precondition(header http.Header, version uint64) (*datav1.Precondition, error) {
	if lists := strings.TrimSpace(strings.Join(header[headerIfMatch], ",")); lists != "" && lists != "*" {
		v, err := versionOf(lists)
		if err != nil {
			return nil, err
		}
		if version != 0 && version != v {
			return nil, rpcerr.InvalidField("version", "differs from the one in If-Match")
		}
		version = v
	}
	if version != 0 {
		return &datav1.Precondition{Condition: &datav1.Precondition_IfVersion{IfVersion: version}}, nil
	}
	return &datav1.Precondition{Condition: &datav1.Precondition_IfExists{IfExists: true}}, nil
}

// versionOf returns the version that a list of entity tags names. Tags that no user ever has, weak ones for instance, match nothing.
func versionOf(lists string) (version uint64, err error) {
	for tag := range strings.SplitSeq(lists, ",") {
		tag = strings.TrimSpace(tag)
		strong, weak := strings.CutPrefix(tag, "W/")
		text, closed := strings.CutSuffix(strings.TrimPrefix(strong, `"`), `"`)
		if !closed || !strings.HasPrefix(strong, `"`) || len(strong) < 2 {
			return 0, rpcerr.InvalidField(headerIfMatch, `must be * or the ETag of an answer, such as "12"`)
		}
		v, err := strconv.ParseUint(text, 10, 64)
		if weak || err != nil || v == 0 {
			continue
		}
		if version != 0 && version != v {
			return 0, rpcerr.InvalidField(headerIfMatch, "names several versions: one can be checked")
		}
		version = v
	}
	if version == 0 {
		return 0, rpcerr.New(datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED, "If-Match: no user has such an ETag")
	}
	return version, nil
}
