package business

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	"github.com/nearside-dev/nearside/gen/nearside/business/v1/businessv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

const tableUsers = "users"

// The primary's clock stands still within a statement, so both times of a new user are equal. It gives milliseconds.
const (
	insertUser = `INSERT INTO users (id, email, name, created_at, updated_at)
SELECT ?1, ?2, ?3, now, now FROM (SELECT CAST(round(unixepoch('subsec') * 1000) AS INTEGER) * 1000000 AS now)
RETURNING id, email, name, created_at, updated_at`
	// The time of a change is always later than the one before, so that each change makes another row.
	touchUser = `UPDATE users
SET updated_at = max(updated_at + 1, CAST(round(unixepoch('subsec') * 1000) AS INTEGER) * 1000000)
WHERE id = ?1 RETURNING id, email, name, created_at, updated_at`
)

type users struct{ *service }

var _ businessv1connect.UserServiceHandler = users{}

// CreateUser implements UserService.
func (s users) CreateUser(ctx context.Context, req *connect.Request[businessv1.CreateUserRequest]) (*connect.Response[businessv1.CreateUserResponse], error) {
	key, err := idempotencyKey(req)
	if err != nil {
		return nil, err
	}
	id, err := newID(userPrefix, key, req.Msg)
	if err != nil {
		return nil, err
	}
	user, err := s.writeUser(ctx, key, id,
		statement(insertUser, textValue(id), textValue(req.Msg.GetEmail()), textValue(req.Msg.GetName())))
	if taken(err) {
		user, err = s.created(ctx, key, id)
	}
	if err != nil {
		return nil, s.failed("create user", err)
	}
	return tagged(&businessv1.CreateUserResponse{User: user}, user), nil
}

// created answers a create that met a row in its way: an earlier one of the same key and request, which the data API has
// forgotten since, or another user with this email.
func (s users) created(ctx context.Context, key, id string) (*businessv1.User, error) {
	if key != "" {
		user, err := s.user(ctx, id, &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY})
		if err != nil || user != nil {
			return user, err
		}
	}
	return nil, emailTaken()
}

func emailTaken() error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_ALREADY_EXISTS, "another user has this email").With("field", "email")
}

// GetUser implements UserService.
func (s users) GetUser(ctx context.Context, req *connect.Request[businessv1.GetUserRequest]) (*connect.Response[businessv1.GetUserResponse], error) {
	id := req.Msg.GetId()
	user, err := s.user(ctx, id, nil)
	if err != nil {
		return nil, s.failed("get user", err)
	}
	if user == nil {
		return nil, notFound("user", id)
	}
	return tagged(&businessv1.GetUserResponse{User: user}, user), nil
}

// BatchGetUsers implements UserService.
func (s users) BatchGetUsers(
	ctx context.Context, req *connect.Request[businessv1.BatchGetUsersRequest],
) (*connect.Response[businessv1.BatchGetUsersResponse], error) {
	keys := make([]*datav1.Key, len(req.Msg.GetIds()))
	for i, id := range req.Msg.GetIds() {
		keys[i] = keyOf(id)
	}
	rows, err := s.data.BatchGet(ctx, connect.NewRequest(&datav1.BatchGetRequest{Database: Database, Table: tableUsers, Keys: keys}))
	if err != nil {
		return nil, s.failed("get users", err)
	}
	res := &businessv1.BatchGetUsersResponse{}
	for _, result := range rows.Msg.GetResults() {
		if result.GetRow() == nil {
			continue
		}
		user, err := userFrom(rows.Msg.GetColumns(), result.GetRow())
		if err != nil {
			return nil, err
		}
		res.Users = append(res.Users, user)
	}
	return connect.NewResponse(res), nil
}

// ListUsers implements UserService.
func (s users) ListUsers(ctx context.Context, req *connect.Request[businessv1.ListUsersRequest]) (*connect.Response[businessv1.ListUsersResponse], error) {
	page, err := s.data.List(ctx, connect.NewRequest(&datav1.ListRequest{
		Database: Database, Table: tableUsers, PageSize: pageSize(req.Msg.GetPageSize()), PageToken: req.Msg.GetPageToken(),
	}))
	if err != nil {
		return nil, s.failed("list users", err)
	}
	res := &businessv1.ListUsersResponse{NextPageToken: page.Msg.GetNextPageToken()}
	for _, row := range page.Msg.GetRows() {
		user, err := userFrom(page.Msg.GetColumns(), row)
		if err != nil {
			return nil, err
		}
		res.Users = append(res.Users, user)
	}
	return connect.NewResponse(res), nil
}

// UpdateUser implements UserService.
func (s users) UpdateUser(ctx context.Context, req *connect.Request[businessv1.UpdateUserRequest]) (*connect.Response[businessv1.UpdateUserResponse], error) {
	set, err := changes(req.Msg)
	if err != nil {
		return nil, err
	}
	user, err := s.update(ctx, req, req.Msg.GetId(), req.Msg.GetVersion(), set)
	if err != nil {
		return nil, err
	}
	return tagged(&businessv1.UpdateUserResponse{User: user}, user), nil
}

// changes are the columns that a request sets.
func changes(req *businessv1.UpdateUserRequest) (map[string]*datav1.Value, error) {
	given := make(map[string]*datav1.Value, 2)
	if req.Email != nil {
		given["email"] = textValue(req.GetEmail())
	}
	if req.Name != nil {
		given["name"] = textValue(req.GetName())
	}
	set := given
	if req.GetUpdateMask() != nil {
		set = make(map[string]*datav1.Value, 2)
		for i, path := range req.GetUpdateMask().GetPaths() {
			if path != "email" && path != "name" {
				return nil, rpcerr.InvalidField(fmt.Sprintf("update_mask.paths[%d]", i), "must be email or name")
			}
			if given[path] == nil {
				return nil, rpcerr.InvalidField(path, "must be given, as update_mask names it")
			}
			set[path] = given[path]
		}
	}
	if len(set) == 0 {
		return nil, rpcerr.InvalidField("email", "give an email, a name or both")
	}
	return set, nil
}

// ReplaceUser implements UserService.
func (s users) ReplaceUser(ctx context.Context, req *connect.Request[businessv1.ReplaceUserRequest]) (*connect.Response[businessv1.ReplaceUserResponse], error) {
	user, err := s.update(ctx, req, req.Msg.GetId(), req.Msg.GetVersion(),
		map[string]*datav1.Value{"email": textValue(req.Msg.GetEmail()), "name": textValue(req.Msg.GetName())})
	if err != nil {
		return nil, err
	}
	return tagged(&businessv1.ReplaceUserResponse{User: user}, user), nil
}

// update sets columns of a user, if it has the version that is asked for.
func (s users) update(
	ctx context.Context, req connect.AnyRequest, id string, version uint64, set map[string]*datav1.Value,
) (*businessv1.User, error) {
	key, err := idempotencyKey(req)
	if err != nil {
		return nil, err
	}
	must, err := precondition(req.Header(), version)
	if err != nil {
		return nil, err
	}
	user, err := s.writeUser(ctx, key, id,
		&datav1.Operation{Operation: &datav1.Operation_Update{Update: &datav1.Update{
			Table: tableUsers, Key: keyOf(id), Set: set, Precondition: must,
		}}},
		statement(touchUser, textValue(id)))
	switch {
	case taken(err):
		return nil, emailTaken()
	case absent(err):
		return nil, notFound("user", id)
	case err != nil:
		return nil, s.failed("update user", err)
	}
	return user, nil
}

// DeleteUser implements UserService.
func (s users) DeleteUser(ctx context.Context, req *connect.Request[businessv1.DeleteUserRequest]) (*connect.Response[businessv1.DeleteUserResponse], error) {
	key, err := idempotencyKey(req)
	if err != nil {
		return nil, err
	}
	must, err := precondition(req.Header(), req.Msg.GetVersion())
	if err != nil {
		return nil, err
	}
	id := req.Msg.GetId()
	_, err = s.transact(ctx, key,
		&datav1.Operation{Operation: &datav1.Operation_Delete{Delete: &datav1.Delete{
			Table: tableUsers, Key: keyOf(id), Precondition: must,
		}}})
	switch {
	case constraint(err) == constraintForeignKey:
		return nil, violation(ruleUserHasOrders, "the user has orders")
	case absent(err):
		return nil, notFound("user", id)
	case err != nil:
		return nil, s.failed("delete user", err)
	}
	return connect.NewResponse(&businessv1.DeleteUserResponse{}), nil
}

// writeUser runs a transaction whose last operation returns the user with this id.
func (s users) writeUser(ctx context.Context, key, id string, ops ...*datav1.Operation) (*businessv1.User, error) {
	done, err := s.transact(ctx, key, ops...)
	if err != nil {
		return nil, err
	}
	if results := done.GetResults(); len(results) == len(ops) && len(results[len(ops)-1].GetRows()) == 1 {
		last := results[len(ops)-1]
		last.Rows[0].Version = done.GetVersion()
		return userFrom(last.GetColumns(), last.GetRows()[0])
	}
	// A repeat of which only "done" is remembered: the user is as later calls left it.
	user, err := s.user(ctx, id, nil)
	if err == nil && user == nil {
		err = notFound("user", id)
	}
	return user, err
}

// user returns the user with this id, or nil if there is none. With no consistency it is as fresh as the session's bookmark.
func (s users) user(ctx context.Context, id string, c *datav1.Consistency) (*businessv1.User, error) {
	res, err := s.data.Get(ctx, connect.NewRequest(&datav1.GetRequest{
		Database: Database, Table: tableUsers, Key: keyOf(id), Consistency: c,
	}))
	if err != nil {
		return nil, err
	}
	if res.Msg.GetRow() == nil {
		return nil, nil
	}
	return userFrom(res.Msg.GetColumns(), res.Msg.GetRow())
}
