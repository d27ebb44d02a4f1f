package business

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/nearside-dev/nearside/client"
	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	"github.com/nearside-dev/nearside/gen/nearside/business/v1/businessv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

func createUser(t *testing.T, c businessv1connect.UserServiceClient, email, key string) (*businessv1.User, http.Header) {
	t.Helper()
	req := connect.NewRequest(&businessv1.CreateUserRequest{Email: email, Name: "Somebody"})
	if key != "" {
		req.Header().Set(rpcheader.IdempotencyKey, key)
	}
	res, err := c.CreateUser(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.GetUser(), res.Header()
}

func sameUser(t *testing.T, got, want *businessv1.User) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("user (-want +got):\n%s", diff)
	}
}

func testUserLife(t *testing.T, mesh []region) {
	session := client.NewSession()
	here, there := mesh[0].users(connect.WithInterceptors(session)), mesh[len(mesh)-1].users(connect.WithInterceptors(session))
	user, _ := createUser(t, here, "life@example.com", "")
	if user.GetVersion() == 0 || user.GetCreateTime().AsTime().IsZero() || !proto.Equal(user.GetCreateTime(), user.GetUpdateTime()) {
		t.Errorf("new user is %v", user)
	}
	get := func() *businessv1.User {
		t.Helper()
		res, err := there.GetUser(t.Context(), connect.NewRequest(&businessv1.GetUserRequest{Id: user.GetId()}))
		if err != nil {
			t.Fatal(err)
		}
		return res.Msg.GetUser()
	}
	sameUser(t, get(), user)

	updated, err := there.UpdateUser(t.Context(), connect.NewRequest(&businessv1.UpdateUserRequest{
		Id: user.GetId(), Name: new("Another"), Version: user.GetVersion(),
	}))
	if err != nil {
		t.Fatal(err)
	}
	now := updated.Msg.GetUser()
	if now.GetName() != "Another" || now.GetEmail() != user.GetEmail() || now.GetVersion() <= user.GetVersion() ||
		!now.GetUpdateTime().AsTime().After(user.GetUpdateTime().AsTime()) {
		t.Errorf("update of %v gives %v", user, now)
	}
	sameUser(t, get(), now)

	_, err = here.UpdateUser(t.Context(), connect.NewRequest(&businessv1.UpdateUserRequest{
		Id: user.GetId(), Name: new("Lost"), Version: user.GetVersion(),
	}))
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED,
		"condition", "if_version", "present_version", strconv.FormatUint(now.GetVersion(), 10))
	sameUser(t, get(), now)

	if _, err := here.DeleteUser(t.Context(), connect.NewRequest(&businessv1.DeleteUserRequest{Id: user.GetId()})); err != nil {
		t.Fatal(err)
	}
	_, err = there.GetUser(t.Context(), connect.NewRequest(&businessv1.GetUserRequest{Id: user.GetId()}))
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND, "resource", "user", "id", user.GetId())
	if wire, ok := errors.AsType[*connect.Error](err); !ok || wire.Meta().Get(rpcheader.Bookmark) == "" {
		t.Errorf("the answer that there is no such user has no bookmark: %v", err)
	}
	wantAudit(t, mesh[0], user.GetId(), "create", "update", "delete")
}

func wantAudit(t *testing.T, r region, id string, want ...string) {
	t.Helper()
	data := client.New(r.url)
	defer data.Close()
	res, err := data.Query(t.Context(), connect.NewRequest(&datav1.QueryRequest{
		Database:    Database,
		Statement:   statement("SELECT action FROM user_audit WHERE user_id = ? ORDER BY id", textValue(id)).GetStatement(),
		Consistency: &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY},
	}))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range res.Msg.GetResult().GetRows() {
		got = append(got, row.GetValues()[0].GetText())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("audit (-want +got):\n%s", diff)
	}
}

func testUserMistakes(t *testing.T, mesh []region) {
	ctx, users := t.Context(), mesh[0].users()
	taken, _ := createUser(t, users, "taken@example.com", "")
	other, _ := createUser(t, users, "other@example.com", "")
	const nobody = "no id of ours"
	for _, tc := range []struct {
		name     string
		call     func() error
		reason   datav1.ErrorReason
		metadata []string
	}{
		{"email taken, in other case", func() error {
			_, err := users.CreateUser(ctx, connect.NewRequest(&businessv1.CreateUserRequest{Email: "Taken@Example.com", Name: "x"}))
			return err
		}, datav1.ErrorReason_ERROR_REASON_ALREADY_EXISTS, []string{"field", "email"}},
		{"email taken, by update", func() error {
			_, err := users.UpdateUser(ctx, connect.NewRequest(&businessv1.UpdateUserRequest{
				Id: other.GetId(), Email: new(taken.GetEmail()),
			}))
			return err
		}, datav1.ErrorReason_ERROR_REASON_ALREADY_EXISTS, []string{"field", "email"}},
		{"update nothing", func() error {
			_, err := users.UpdateUser(ctx, connect.NewRequest(&businessv1.UpdateUserRequest{Id: other.GetId()}))
			return err
		}, datav1.ErrorReason_ERROR_REASON_FIELD_INVALID, nil},
		{"no email", func() error {
			_, err := users.CreateUser(ctx, connect.NewRequest(&businessv1.CreateUserRequest{Email: "nothing", Name: "x"}))
			return err
		}, datav1.ErrorReason_ERROR_REASON_FIELD_INVALID, nil},
		{"key too long", func() error {
			req := connect.NewRequest(&businessv1.CreateUserRequest{Email: "key@example.com", Name: "x"})
			req.Header().Set(rpcheader.IdempotencyKey, strings.Repeat("k", 256))
			_, err := users.CreateUser(ctx, req)
			return err
		}, datav1.ErrorReason_ERROR_REASON_FIELD_INVALID, nil},
		{"get nobody", func() error {
			_, err := users.GetUser(ctx, connect.NewRequest(&businessv1.GetUserRequest{Id: nobody}))
			return err
		}, datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND, []string{"resource", "user", "id", nobody}},
		{"update nobody", func() error {
			_, err := users.UpdateUser(ctx, connect.NewRequest(&businessv1.UpdateUserRequest{Id: nobody, Name: new("x")}))
			return err
		}, datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND, []string{"resource", "user", "id", nobody}},
		{"update nobody of a version", func() error {
			_, err := users.UpdateUser(ctx, connect.NewRequest(&businessv1.UpdateUserRequest{Id: nobody, Name: new("x"), Version: 7}))
			return err
		}, datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND, []string{"resource", "user", "id", nobody}},
		{"delete nobody", func() error {
			_, err := users.DeleteUser(ctx, connect.NewRequest(&businessv1.DeleteUserRequest{Id: nobody}))
			return err
		}, datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND, []string{"resource", "user", "id", nobody}},
		{"page token", func() error {
			_, err := users.ListUsers(ctx, connect.NewRequest(&businessv1.ListUsersRequest{PageToken: "zz"}))
			return err
		}, datav1.ErrorReason_ERROR_REASON_PAGE_TOKEN_INVALID, nil},
		{"bookmark", func() error {
			req := connect.NewRequest(&businessv1.GetUserRequest{Id: other.GetId()})
			req.Header().Set(rpcheader.Bookmark, "nonsense")
			_, err := users.GetUser(ctx, req)
			return err
		}, datav1.ErrorReason_ERROR_REASON_BOOKMARK_MALFORMED, nil},
	} {
		t.Run(tc.name, func(t *testing.T) { wantReason(t, tc.call(), tc.reason, tc.metadata...) })
	}
	wantAudit(t, mesh[0], other.GetId(), "create")
}

func testIdempotencyKey(t *testing.T, mesh []region) {
	ctx, users := t.Context(), mesh[0].users()
	first, _ := createUser(t, users, "key@example.com", "key-1")
	again, _ := createUser(t, mesh[len(mesh)-1].users(), "key@example.com", "key-1")
	sameUser(t, again, first)

	req := connect.NewRequest(&businessv1.CreateUserRequest{Email: "else@example.com", Name: "Somebody"})
	req.Header().Set(rpcheader.IdempotencyKey, "key-1")
	_, err := users.CreateUser(ctx, req)
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_IDEMPOTENCY_KEY_REUSED)

	update := func() *businessv1.User {
		req := connect.NewRequest(&businessv1.UpdateUserRequest{Id: first.GetId(), Name: new("New"), Version: first.GetVersion()})
		req.Header().Set(rpcheader.IdempotencyKey, "key-2")
		res, err := users.UpdateUser(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		return res.Msg.GetUser()
	}
	sameUser(t, update(), update())

	for range 2 {
		req := connect.NewRequest(&businessv1.DeleteUserRequest{Id: first.GetId()})
		req.Header().Set(rpcheader.IdempotencyKey, "key-3")
		if _, err := users.DeleteUser(ctx, req); err != nil {
			t.Fatal(err)
		}
	}
	wantAudit(t, mesh[0], first.GetId(), "create", "update", "delete")
}

// forgetful is a data API that did everything, and remembers of it only that it did (as after a crash), or not even that
// (as after the key's expiry).
type forgetful struct {
	datav1connect.DataServiceClient

	forgetKeys bool
}

func (f forgetful) Transact(ctx context.Context, req *connect.Request[datav1.TransactRequest]) (*connect.Response[datav1.TransactResponse], error) {
	if f.forgetKeys {
		req.Msg.IdempotencyKey = ""
	}
	res, err := f.DataServiceClient.Transact(ctx, req)
	if err == nil {
		res.Msg.Results = nil
	}
	return res, err
}

func testForgottenAnswers(t *testing.T, mesh []region) {
	for _, forgetKeys := range []bool{false, true} {
		t.Run(fmt.Sprintf("keys forgotten %v", forgetKeys), func(t *testing.T) {
			data := client.New(mesh[0].url, client.WithoutRetry())
			defer data.Close()
			s := &service{data: forgetful{DataServiceClient: data, forgetKeys: forgetKeys}, shipping: newShippingClient(mesh[0].http, mesh[0].url)}
			create := func() *businessv1.User {
				req := connect.NewRequest(&businessv1.CreateUserRequest{
					Email: fmt.Sprintf("forgotten-%v@example.com", forgetKeys), Name: "Somebody",
				})
				req.Header().Set(rpcheader.IdempotencyKey, fmt.Sprintf("forgotten-user-%v", forgetKeys))
				res, err := users{s}.CreateUser(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				return res.Msg.GetUser()
			}
			user := create()
			sameUser(t, create(), user)

			place := func() *businessv1.Order {
				req := connect.NewRequest(&businessv1.PlaceOrderRequest{UserId: user.GetId(), Items: []*businessv1.OrderItem{item("a", 1, 1)}})
				req.Header().Set(rpcheader.IdempotencyKey, fmt.Sprintf("forgotten-order-%v", forgetKeys))
				res, err := orders{s}.PlaceOrder(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				return res.Msg.GetOrder()
			}
			order := place()
			sameOrder(t, place(), order)
			if len(order.GetItems()) != 1 || order.GetTotalCents() != 1 {
				t.Errorf("order is %v", order)
			}
		})
	}
}

func testListUsers(t *testing.T, mesh []region) {
	session := client.NewSession()
	users := mesh[0].users(connect.WithInterceptors(session))
	want := map[string]*businessv1.User{}
	for i := range 7 {
		user, _ := createUser(t, users, fmt.Sprintf("list-%d@example.com", i), "")
		want[user.GetId()] = user
	}
	there := mesh[len(mesh)-1].users(connect.WithInterceptors(session))
	got := map[string]*businessv1.User{}
	last, token := "", ""
	for {
		page, err := there.ListUsers(t.Context(), connect.NewRequest(&businessv1.ListUsersRequest{PageSize: 3, PageToken: token}))
		if err != nil {
			t.Fatal(err)
		}
		if n := len(page.Msg.GetUsers()); n > 3 {
			t.Fatalf("a page of %d users", n)
		}
		for _, user := range page.Msg.GetUsers() {
			if user.GetId() <= last {
				t.Errorf("%s comes after %s", user.GetId(), last)
			}
			last = user.GetId()
			if want[last] != nil { // other tests make users too
				got[last] = user
			}
		}
		if token = page.Msg.GetNextPageToken(); token == "" {
			break
		}
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("listed users (-want +got):\n%s", diff)
	}
}

// testReadYourWrites: whoever has the bookmark of a write finds it in every region, at once, however many write.
func testReadYourWrites(t *testing.T, mesh []region) {
	const writers, each = 8, 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				from, to := mesh[(w+i)%len(mesh)], mesh[(w+i+1)%len(mesh)]
				res, err := from.users().CreateUser(t.Context(), connect.NewRequest(&businessv1.CreateUserRequest{
					Email: fmt.Sprintf("w%d-%d@example.com", w, i), Name: "Somebody",
				}))
				if err != nil {
					t.Error(err)
					return
				}
				req := connect.NewRequest(&businessv1.GetUserRequest{Id: res.Msg.GetUser().GetId()})
				req.Header().Set(rpcheader.Bookmark, res.Header().Get(rpcheader.Bookmark))
				if _, err := to.users().GetUser(t.Context(), req); err != nil {
					t.Errorf("written in %s, read in %s: %v", from.name, to.name, err)
				}
			}
		})
	}
	wg.Wait()
}
