package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/nearside-dev/nearside/internal/servicedesc"
)

// problemType begins the type of the problems that have a reason; docs/errors.md lists those.
const problemType = "urn:nearside:error:"

const fieldInvalid = "FIELD_INVALID"

// Problem is an error as REST callers get it (RFC 9457).
type Problem struct {
	Type     string            `json:"type"` // urn:nearside:error:REASON, or about:blank
	Title    string            `json:"title"`
	Status   int               `json:"status"`
	Detail   string            `json:"detail,omitempty"`
	Instance string            `json:"instance,omitempty"` // the path that was asked for
	Code     string            `json:"code,omitempty"`     // as calls have it, "invalid_argument"
	Reason   string            `json:"reason,omitempty"`   // "FIELD_INVALID"
	Metadata map[string]string `json:"metadata,omitempty"`
	Errors   []ProblemField    `json:"errors,omitempty"`
}

// ProblemField is a broken rule of one field.
type ProblemField struct {
	Field  string `json:"field"` // "items[0].sku"
	Detail string `json:"detail"`
}

// statuses are HTTP's words for the codes of calls, as google.rpc.Code has them.
var statuses = map[connect.Code]int{
	connect.CodeCanceled: 499, connect.CodeUnknown: http.StatusInternalServerError,
	connect.CodeInvalidArgument: http.StatusBadRequest, connect.CodeDeadlineExceeded: http.StatusGatewayTimeout,
	connect.CodeNotFound: http.StatusNotFound, connect.CodeAlreadyExists: http.StatusConflict,
	connect.CodePermissionDenied: http.StatusForbidden, connect.CodeResourceExhausted: http.StatusTooManyRequests,
	connect.CodeFailedPrecondition: http.StatusBadRequest, connect.CodeAborted: http.StatusConflict,
	connect.CodeOutOfRange: http.StatusBadRequest, connect.CodeUnimplemented: http.StatusNotImplemented,
	connect.CodeInternal: http.StatusInternalServerError, connect.CodeUnavailable: http.StatusServiceUnavailable,
	connect.CodeDataLoss: http.StatusInternalServerError, connect.CodeUnauthenticated: http.StatusUnauthorized,
}

// reasons are those for which HTTP has a better word than for their code.
var reasons = map[string]int{
	"PRECONDITION_FAILED": http.StatusPreconditionFailed,
	"RULE_VIOLATED":       http.StatusConflict,
	"CONSTRAINT_FAILED":   http.StatusConflict,
	"REQUEST_TOO_LARGE":   http.StatusRequestEntityTooLarge,
	"REQUEST_TOO_SLOW":    http.StatusRequestTimeout,
}

func (a *answer) refuse(status int, detail string) {
	a.status = status
	a.body.Reset()
	a.body.WriteString(detail)
	a.header.Set("Content-Type", "text/plain")
}

// invalid refuses a parameter of the request.
func (a *answer) invalid(field, detail string) {
	a.refuse(http.StatusBadRequest, field+": "+detail)
	a.invalidField = &ProblemField{field, detail}
}

// problem makes an error what REST callers get: what a call answered is a google.rpc.Status, what stands before the calls text.
func (a *answer) problem() {
	p := Problem{Type: "about:blank", Instance: a.request.URL.EscapedPath()}
	var s status.Status
	if bytes.HasPrefix(a.body.Bytes(), []byte("{")) && protojson.Unmarshal(a.body.Bytes(), &s) == nil {
		p.Detail = s.GetMessage()
		code := connect.Code(s.GetCode())
		p.Code = code.String()
		if known := statuses[code]; known != 0 {
			a.status = known
		}
		a.details(&p, &s)
		// The transcoder has no code for a body that it cannot read; errors of calls that are not known have no such words.
		if p.Reason == "" && (code == connect.CodeInvalidArgument || code == connect.CodeUnknown && badMessage.MatchString(p.Detail)) {
			a.status, p.Code = http.StatusBadRequest, connect.CodeInvalidArgument.String()
			p.malformed(a)
		}
		if better := reasons[p.Reason]; better != 0 {
			a.status = better
		}
	} else {
		p.Detail = strings.TrimSpace(a.body.String())
		if a.invalidField != nil {
			p.Code, p.Reason, p.Errors = connect.CodeInvalidArgument.String(), fieldInvalid, []ProblemField{*a.invalidField}
			p.Type = problemType + fieldInvalid
		}
	}
	p.Status, p.Title = a.status, http.StatusText(a.status)
	if p.Title == "" {
		p.Title = "Client Closed Request" // 499, which has no name in the standard
	}
	if a.status == http.StatusUnauthorized && a.header.Get("WWW-Authenticate") == "" {
		a.header.Set("WWW-Authenticate", `Bearer realm="nearside"`)
	}
	text, err := json.Marshal(p)
	if err != nil {
		text = []byte("{}") // never, of strings
	}
	a.body.Reset()
	a.body.Write(text)
	a.header.Set("Content-Type", contentTypeProblem)
	a.header.Set("Cache-Control", "no-store")
	a.header.Del("Content-Encoding")
}

var (
	badParameter = regexp.MustCompile(`^invalid parameter "([^"]+)":? ?(.*)$`)
	badMessage   = regexp.MustCompile(`^proto:[ \x{a0}]`)
	badBody      = regexp.MustCompile(`^proto:[ \x{a0}].*\(line (\d+):(\d+)\):[ \x{a0}](.*)$`)
	unknownField = regexp.MustCompile(`^unknown field "([^"]+)"$`)
)

// malformed says which part of a request is not what its rule wants, where that was found before the call was made.
func (p *Problem) malformed(a *answer) {
	// The words of protobuf's errors are spaced at random, so that nobody relies on them; what they name is not.
	p.Detail = strings.ReplaceAll(p.Detail, "\u00a0", " ")
	field := ProblemField{Field: "body", Detail: strings.TrimPrefix(p.Detail, "proto: ")}
	if m := badParameter.FindStringSubmatch(p.Detail); m != nil {
		field = a.badParameter(m[1], m[2])
	} else if m := badBody.FindStringSubmatch(p.Detail); m != nil {
		field.Detail = fmt.Sprintf("line %s, column %s: %s", m[1], m[2], m[3])
		if name := unknownField.FindStringSubmatch(m[3]); name != nil {
			field = ProblemField{name[1], "is not known"}
		}
	}
	p.Type, p.Reason, p.Errors = problemType+fieldInvalid, fieldInvalid, []ProblemField{field}
	p.Detail = field.Field + ": " + field.Detail
}

// badParameter says what is wrong with a parameter that the transcoder did not take, by the name that its caller has for it.
func (a *answer) badParameter(path, detail string) ProblemField {
	name := a.nameOf(path)
	if field := a.parameters[name]; field != nil {
		if words := wanted(field); words != "" {
			detail = words
		}
	}
	return ProblemField{name, detail}
}

// nameOf is a field's path with the names that the request has for it: a parameter's, or those of JSON.
func (a *answer) nameOf(path string) string {
	if a.binding == nil {
		return path
	}
	for name := range a.parameters {
		if canonical, _, err := a.binding.parameter(name); err == nil && canonical == path {
			return name
		}
	}
	return servicedesc.JSONPath(a.binding.Method.Input(), path)
}

func (a *answer) details(p *Problem, s *status.Status) {
	for _, detail := range s.GetDetails() {
		message, err := detail.UnmarshalNew()
		if err != nil {
			continue
		}
		switch d := message.(type) {
		case *errdetails.ErrorInfo:
			p.Reason, p.Metadata = d.GetReason(), d.GetMetadata()
			p.Type = problemType + d.GetReason()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				field := a.nameOf(v.GetField())
				p.Errors = append(p.Errors, ProblemField{field, v.GetDescription()})
				if rule, ok := strings.CutPrefix(p.Detail, v.GetField()+":"); ok {
					p.Detail = field + ":" + rule
				}
			}
		case *errdetails.RetryInfo:
			seconds := math.Ceil(d.GetRetryDelay().AsDuration().Seconds())
			a.header.Set("Retry-After", strconv.Itoa(max(1, int(seconds))))
		}
	}
}
