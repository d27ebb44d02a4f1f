package graphql

import (
	"errors"

	"connectrpc.com/connect"
)

// Reasons of errors that no call answered. docs/graphql.md lists them.
const (
	reasonParse         = "GRAPHQL_PARSE_FAILED"
	reasonValidation    = "GRAPHQL_VALIDATION_FAILED"
	reasonRequest       = "GRAPHQL_REQUEST_INVALID"
	reasonLimit         = "GRAPHQL_LIMIT_EXCEEDED"
	reasonIntrospection = "GRAPHQL_INTROSPECTION_OFF"
	reasonValue         = "GRAPHQL_VALUE_OUT_OF_RANGE"
	reasonField         = "FIELD_INVALID"
)

func graphExtensions(reason string) map[string]any {
	return map[string]any{"code": connect.CodeInvalidArgument.String(), "reason": reason}
}

// extensionsOf is what programs read of an error.
func extensionsOf(err error) map[string]any {
	if e, ok := errors.AsType[*limitError](err); ok {
		return map[string]any{
			"code": connect.CodeResourceExhausted.String(), "reason": reasonLimit, "metadata": map[string]string{"limit": e.limit},
		}
	}
	if e, ok := errors.AsType[*inputError](err); ok {
		return map[string]any{
			"code": connect.CodeInvalidArgument.String(), "reason": reasonField, "fields": []fieldProblem{{e.field, e.detail}},
		}
	}
	e, ok := errors.AsType[*callError](err)
	if !ok {
		return graphExtensions(reasonRequest)
	}
	out := map[string]any{"code": e.code.String()}
	if e.reason != "" {
		out["reason"] = e.reason
	}
	if len(e.metadata) > 0 {
		out["metadata"] = e.metadata
	}
	if len(e.fields) > 0 {
		out["fields"] = e.fields
	}
	if e.retryAfter > 0 {
		out["retryAfterMs"] = e.retryAfter.Milliseconds()
	}
	return out
}
