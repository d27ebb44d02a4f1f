package access

import (
	"context"
	"testing"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// call is a unary request as interceptors see it.
type call struct {
	*connect.Request[datav1.GetRequest]

	procedure string
}

func (c *call) Spec() connect.Spec { return connect.Spec{Procedure: c.procedure} }

// TestARightThatIsTakenWhileACallReads: what the call has read may be newer than the rows that let it in.
func TestARightThatIsTakenWhileACallReads(t *testing.T) {
	text := value.Text
	for name, c := range map[string]struct {
		change func(w *world)
		want   string
	}{
		"nothing":        {func(*world) {}, ""},
		"something else": {func(w *world) { w.add(meshdb.TableRevocations, text("other"), value.Integer(0)) }, ""},
		"the role":       {func(w *world) { w.clear(meshdb.TableAccountRoles) }, "PERMISSION_DENIED"},
		"the token":      {func(w *world) { w.add(meshdb.TableRevocations, text("t_1"), value.Integer(0)) }, "TOKEN_INVALID"},
		"the account":    {func(w *world) { w.clear(meshdb.TableAccounts) }, "TOKEN_INVALID"},
		"by a policy":    {func(w *world) { w.put(t, "p", `forbid (principal, action, resource == Table::"shop/t");`) }, "PERMISSION_DENIED"},
		"another table":  {func(w *world) { w.put(t, "p", `forbid (principal, action, resource == Table::"pop/t");`) }, ""},
		"some of its row": {func(w *world) {
			w.put(t, "p", `@unless_row("o == principal.id") forbid (principal, action, resource == Table::"shop/t");`)
		}, "NOT_READY"},
	} {
		w := newWorld(t)
		w.guard.listener = Gateway
		token := w.token(t, nil)
		p, err := w.verifier.Credential(token)
		if err != nil {
			t.Fatal(err)
		}
		req := &call{connect.NewRequest(&datav1.GetRequest{Database: "shop", Table: "t"}), datav1connect.DataServiceGetProcedure}
		req.Header().Set("Authorization", "Bearer "+token)
		read := w.guard.WrapUnary(func(context.Context, connect.AnyRequest) (connect.AnyResponse, error) {
			if !w.guard.Current(p) {
				t.Errorf("%s: before", name)
			}
			c.change(w)
			return connect.NewResponse(&datav1.GetResponse{Answer: &datav1.Answer{}}), nil
		})
		res, err := read(identity.With(context.Background(), p), req)
		got := ""
		if err != nil {
			got = rpcerr.ReasonOf(err).String()[len("ERROR_REASON_"):]
		}
		if got != c.want || (res == nil) != (err != nil) {
			t.Errorf("%s: %v, %q, want %q", name, res, got, c.want)
		}
		if w.guard.Current(p) != (name == "nothing") {
			t.Errorf("%s: current afterwards", name)
		}
	}
}
