package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/config"
)

// adminFile is the file in a data folder that says where its mesh is and what opens it.
const adminFile = "admin.json"

// maxAnswerBytes bounds an answer in memory: what a node sends at most, and some room for its encoding.
const maxAnswerBytes = 128 << 20

// target is the mesh that a client command talks to.
type target struct {
	config.Client

	data   datav1connect.DataServiceClient
	cache  datav1connect.CacheServiceClient
	status controlv1connect.StatusServiceClient
	verify controlv1connect.VerifyServiceClient
}

// register adds the settings of a client command.
func (t *target) register(cmd *cobra.Command) {
	t.Client = config.DefaultClient()
	t.Register(config.NewSet(cmd.PersistentFlags()))
}

// connect makes the clients from the settings. It does not call the mesh.
func (t *target) connect(cmd *cobra.Command) error {
	if err := t.fromAdminFile(cmd); err != nil {
		return err
	}
	if err := t.Validate(); err != nil {
		return Usage(err)
	}
	client := &http.Client{Transport: http.DefaultTransport}
	options := connect.WithClientOptions(
		connect.WithReadMaxBytes(maxAnswerBytes),
		connect.WithInterceptors(callInterceptor(t.Token, t.Timeout)),
	)
	t.data = datav1connect.NewDataServiceClient(client, t.URL, options)
	t.cache = datav1connect.NewCacheServiceClient(client, t.URL, options)
	t.status = controlv1connect.NewStatusServiceClient(client, t.URL, options)
	t.verify = controlv1connect.NewVerifyServiceClient(client, t.URL, options)
	return nil
}

// fromAdminFile takes from DIR/admin.json what was not given. That there is no such file is not an error: a mesh without
// security has none.
func (t *target) fromAdminFile(cmd *cobra.Command) error {
	if t.Dir == "" {
		return nil
	}
	path := filepath.Join(t.Dir, adminFile)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("read credentials: %w", err)
	}
	var admin struct {
		URL   string `json:"url"`
		Token string `json:"token"`
	}
	if json.Unmarshal(text, &admin) != nil { // its error could quote the token
		return fmt.Errorf(`read credentials: %s: want {"url":"…","token":"…"}`, path)
	}
	if !cmd.Flags().Changed("url") && admin.URL != "" {
		t.URL = admin.URL
	}
	if !cmd.Flags().Changed("token") {
		t.Token = admin.Token
	}
	return nil
}

// callInterceptor gives each call its token and its time.
func callInterceptor(token string, timeout time.Duration) connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			if token != "" {
				req.Header().Set("Authorization", "Bearer "+token)
			}
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			return next(ctx, req)
		}
	}
}

// database registers the setting that names the database.
func (t *target) database(cmd *cobra.Command) *string {
	name := "demo"
	config.NewSet(cmd.Flags()).String(&name, "db", "the database")
	t.completeDatabases(cmd)
	return &name
}
