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
	if tag := header.Get(headerIfMatch); tag != "" && tag != "*" {
		text, found := strings.CutPrefix(tag, `"`)
		text, closed := strings.CutSuffix(text, `"`)
		v, err := strconv.ParseUint(text, 10, 64)
		if !found || !closed || err != nil || v == 0 {
			return nil, rpcerr.InvalidField(headerIfMatch, `must be * or the ETag of an answer, such as "12"`)
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
