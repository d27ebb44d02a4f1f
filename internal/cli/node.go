package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/dirlock"
	"github.com/nearside-dev/nearside/internal/pki"
)

func (app *App) nodeCommand() *cobra.Command {
	var to target
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Let sidecars into the mesh, list and revoke them",
		Long: `Let sidecars into the mesh, list and revoke them. A gateway lists them too; tokens are made and
nodes revoked at the primary: give its URL with --url.`,
		RunE: missingCommand,
	}
	to.register(cmd)
	cmd.AddCommand(app.nodeTokenCommand(&to), app.nodeListCommand(&to), app.nodeRevokeCommand(&to), app.nodeRotateCommand())
	return cmd
}

func (app *App) nodeTokenCommand(to *target) *cobra.Command {
	var region, out string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a token with which one sidecar can join",
		Long: `Make a token with which one sidecar can join: nearside sidecar --join FILE. Whoever has it can
become a node, once, until it expires. It is printed, or written to a file that only its owner
can read.`,
		Example: "  nearside node token --url http://127.0.0.1:7070 --region eu-west-1 --out eu.token",
		Args:    cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			if out != "" {
				if _, err := os.Stat(out); !errors.Is(err, fs.ErrNotExist) {
					return usagef("--out %s: is there already", out)
				}
			}
			res, err := to.nodes.CreateJoinToken(cmd.Context(), connect.NewRequest(&controlv1.CreateJoinTokenRequest{
				Region: region, Ttl: durationpb.New(ttl),
			}))
			if err != nil {
				return err
			}
			expires := res.Msg.GetExpireTime().AsTime()
			if out == "" {
				app.printf(app.Stdout, "%s", res.Msg.GetToken()) // JSON as it is
				return nil
			}
			f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_, err = f.WriteString(res.Msg.GetToken())
			if err = errors.Join(err, f.Close()); err != nil {
				return err
			}
			if app.JSON {
				return app.WriteJSON(map[string]string{"file": out, "expires": expires.Format(time.RFC3339)})
			}
			app.printf(app.Stdout, "%s: a token for one sidecar until %s\n", out, expires.Local().Format(time.DateTime))
			return nil
		}),
	}
	cmd.Flags().StringVar(&region, "region", "", "the only region that may use it (default any)")
	cmd.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it may be used, at most 720h")
	cmd.Flags().StringVar(&out, "out", "", "file to write it to, which must not be there (default standard output)")
	return cmd
}

// nodeJSON is a node as programs read it.
type nodeJSON struct {
	Node        string  `json:"node"`
	Region      string  `json:"region"`
	SpiffeID    string  `json:"spiffeId"`
	JoinedAt    string  `json:"joinedAt"`  // RFC 3339
	RevokedAt   *string `json:"revokedAt"` // the same; null: it was not
	Connections uint32  `json:"connections"`
}

func nodeJSONOf(n *controlv1.NodeInfo) nodeJSON {
	out := nodeJSON{
		Node: n.GetNode(), Region: n.GetRegion(), SpiffeID: n.GetSpiffeId(), Connections: n.GetConnections(),
		JoinedAt: n.GetJoinTime().AsTime().Format(time.RFC3339),
	}
	if n.GetRevokeTime() != nil {
		at := n.GetRevokeTime().AsTime().Format(time.RFC3339)
		out.RevokedAt = &at
	}
	return out
}

func (app *App) nodeListCommand(to *target) *cobra.Command {
	var format *string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the nodes that have joined",
		Args:  cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			if err := app.chooseFormat(cmd, format, listFormats); err != nil {
				return err
			}
			res, err := to.nodes.ListNodes(cmd.Context(), connect.NewRequest(&controlv1.ListNodesRequest{}))
			if err != nil {
				return err
			}
			if app.JSON {
				nodes := make([]nodeJSON, len(res.Msg.GetNodes()))
				for i, n := range res.Msg.GetNodes() {
					nodes[i] = nodeJSONOf(n)
				}
				return app.WriteJSON(map[string][]nodeJSON{"nodes": nodes})
			}
			rows := make([][]string, len(res.Msg.GetNodes()))
			for i, n := range res.Msg.GetNodes() {
				state := "member"
				if n.GetRevokeTime() != nil {
					state = "revoked " + n.GetRevokeTime().AsTime().Local().Format(time.DateTime)
				}
				rows[i] = []string{
					n.GetNode(), n.GetRegion(), n.GetJoinTime().AsTime().Local().Format(time.DateTime),
					strconv.FormatUint(uint64(n.GetConnections()), 10), state,
				}
			}
			return app.writeList(*format, []string{"node", "region", "joined", "connections", "state"}, rows,
				[]bool{false, false, false, true})
		}),
	}
	format = listFormat(cmd)
	return cmd
}

func (app *App) nodeRevokeCommand(to *target) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "revoke NODE --yes",
		Short: "End a node: cut its connections and refuse new ones",
		Args:  cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if !yes {
				return usagef("a revoked node needs a new token to come back: say --yes if that is meant")
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.nodes.RevokeNode(cmd.Context(), connect.NewRequest(&controlv1.RevokeNodeRequest{Node: args[0]}))
			if err != nil {
				return err
			}
			if app.JSON {
				return app.WriteJSON(struct {
					nodeJSON

					ConnectionsCut uint32 `json:"connectionsCut"`
				}{nodeJSONOf(res.Msg.GetNode()), res.Msg.GetConnectionsCut()})
			}
			app.printf(app.Stdout, "node %s is revoked, %d connections cut\n", args[0], res.Msg.GetConnectionsCut())
			return nil
		}),
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "revoke without asking")
	return cmd
}

func (app *App) nodeRotateCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "rotate-ca --primary-dir DIR",
		Short: "Give the mesh's certificate authority a new key, while the primary is stopped",
		Args:  cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) (err error) {
			if _, err := os.Stat(filepath.Join(dir, "pki")); err != nil {
				return err // and not a lock in a folder that is no primary's
			}
			lock, err := dirlock.Acquire(cmd.Context(), dir)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, lock.Release()) }()
			folder := filepath.Join(dir, "pki")
			if err := pki.Rotate(folder, nil); err != nil {
				return err
			}
			if app.JSON {
				return app.WriteJSON(map[string]string{"dir": folder})
			}
			app.printf(app.Stdout, "the authority in %s has a new key; start the primary\n", folder)
			return nil
		}),
	}
	cmd.Flags().StringVar(&dir, "primary-dir", "", "the primary's folder")
	_ = cmd.MarkFlagRequired("primary-dir") // it is there
	return cmd
}
