package keyread

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"math"
	"strconv"
	"strings"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// A page token is a format byte, the request's hash and the last row's values, each a kind byte (value.Kind) followed by
// eight bytes for a number or a length and bytes for text and blobs. It needs no MAC: what it may skip to stays within the
// request's own range.
const (
	tokenFormat   = 1
	maxTokenChars = 16384 // ListRequest.page_token
)

var tokenEncoding = base64.RawURLEncoding.Strict()

// requestHash ties a token to its request.
type requestHash [8]byte

// hashRequest hashes all of a request but page_size, page_token and consistency.
func hashRequest(req *datav1.ListRequest) requestHash {
	b := make([]byte, 0, 256)
	for _, s := range [3]string{req.GetDatabase(), req.GetTable(), req.GetIndex()} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = appendProtos(b, req.GetPrefix())
	for _, bound := range [2]*datav1.ListRequest_Bound{req.GetStart(), req.GetEnd()} {
		b = appendProtos(b, bound.GetValues()) // a bound without values is no bound
		b = appendBool(b, bound.GetExclusive())
	}
	b = appendBool(b, req.GetReverse())
	sum := sha256.Sum256(b)
	return requestHash(sum[:len(requestHash{})])
}

func appendProtos(b []byte, protos []*datav1.Value) []byte {
	b = binary.AppendUvarint(b, uint64(len(protos)))
	for _, p := range protos {
		b = appendValue(b, value.FromProto(p))
	}
	return b
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendValue(b []byte, v value.Value) []byte {
	b = append(b, byte(v.Kind()))
	switch v.Kind() {
	case value.KindInteger:
		return binary.BigEndian.AppendUint64(b, uint64(v.Integer()))
	case value.KindReal:
		return binary.BigEndian.AppendUint64(b, math.Float64bits(v.Real()))
	case value.KindText, value.KindBlob:
		b = binary.AppendUvarint(b, uint64(len(v.Bytes())))
		return append(b, v.Bytes()...)
	default:
		return b
	}
}

// encodeToken returns the token of a position. The error is RESULT_TOO_LARGE if it is longer than requests may have it.
func encodeToken(hash requestHash, position []byte) (string, error) {
	b := make([]byte, 0, 1+len(hash)+len(position))
	b = append(b, tokenFormat)
	b = append(b, hash[:]...)
	b = append(b, position...)
	if tokenEncoding.EncodedLen(len(b)) > maxTokenChars {
		return "", rpcerr.New(datav1.ErrorReason_ERROR_REASON_RESULT_TOO_LARGE,
			"the key of the page's last row is too long for a page token").With("limit", strconv.Itoa(maxTokenChars))
	}
	return tokenEncoding.EncodeToString(b), nil
}

// decodeToken reads a token of a request with this hash whose rows have this many key columns.
func decodeToken(token string, hash requestHash, columns int) ([]value.Value, error) {
	if len(token) > maxTokenChars {
		return nil, tokenInvalid("is too long")
	}
	b, err := tokenEncoding.DecodeString(token) // which ignores line breaks
	if err != nil || strings.ContainsAny(token, "\r\n") || len(b) < 1+len(hash) || b[0] != tokenFormat {
		return nil, tokenInvalid("is malformed")
	}
	if requestHash(b[1:1+len(hash)]) != hash {
		return nil, tokenInvalid("belongs to another request")
	}
	b = b[1+len(hash):]
	position := make([]value.Value, 0, columns)
	for len(b) > 0 {
		v, rest, ok := decodeValue(b)
		if !ok || len(position) == columns {
			return nil, tokenInvalid("does not fit the table's key")
		}
		position = append(position, v)
		b = rest
	}
	if len(position) != columns {
		return nil, tokenInvalid("does not fit the table's key")
	}
	return position, nil
}

func tokenInvalid(why string) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_PAGE_TOKEN_INVALID, "page_token: %s", why).
		WithFields(rpcerr.Field{Path: "page_token", Description: why})
}

// decodeValue reads one value and returns what follows it. The value shares b's bytes.
func decodeValue(b []byte) (v value.Value, rest []byte, ok bool) {
	kind, b := value.Kind(b[0]), b[1:]
	switch kind {
	case value.KindNull:
		return value.Null(), b, true
	case value.KindInteger, value.KindReal:
		if len(b) < 8 {
			return v, nil, false
		}
		n := binary.BigEndian.Uint64(b)
		if kind == value.KindInteger {
			return value.Integer(int64(n)), b[8:], true
		}
		v = value.Real(math.Float64frombits(n))
		return v, b[8:], !v.IsNull()
	case value.KindText, value.KindBlob:
		n, width := binary.Uvarint(b)
		if width <= 0 || (width > 1 && b[width-1] == 0) || n > uint64(len(b)-width) {
			return v, nil, false
		}
		data, rest := b[width:width+int(n):width+int(n)], b[width+int(n):]
		if kind == value.KindText {
			return value.TextBytes(data), rest, true
		}
		return value.Blob(data), rest, true
	default:
		return v, nil, false
	}
}
