package cli

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// completionTimeout is how long a Tab waits for the mesh.
const completionTimeout = time.Second

var completionShells = []string{"bash", "zsh", "fish"}

func (app *App) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion " + strings.Join(completionShells, "|"),
		Short: "Print what makes a shell complete commands, flags and databases",
		Example: `  source <(nearside completion bash)
  nearside completion zsh > "${fpath[1]}/_nearside"
  nearside completion fish > ~/.config/fish/completions/nearside.fish`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(completionShells, args[0]) {
				return errors.New("want one of " + strings.Join(completionShells, ", "))
			}
			return nil
		},
		ValidArgs: completionShells,
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			write := map[string]func(io.Writer) error{
				"bash": func(w io.Writer) error { return cmd.Root().GenBashCompletionV2(w, true) },
				"zsh":  cmd.Root().GenZshCompletion,
				"fish": func(w io.Writer) error { return cmd.Root().GenFishCompletion(w, true) },
			}
			return write[args[0]](app.Stdout)
		}),
	}
}

// completeValues has Tab complete the values of a flag.
func completeValues(cmd *cobra.Command, flag string, values []string) {
	must(cmd.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveNoFileComp
	}))
}

// completeDatabases has Tab complete the names of databases, if the mesh answers in a moment.
func (t *target) completeDatabases(cmd *cobra.Command) {
	must(cmd.RegisterFlagCompletionFunc("db", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		// The environment and the file are for the command that is being completed, which does not run.
		if err := cmd.Root().PersistentPreRunE(cmd, nil); err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if err := t.connect(cmd); err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		response, err := t.data.ListDatabases(ctx, connect.NewRequest(&datav1.ListDatabasesRequest{}))
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, d := range response.Msg.GetDatabases() {
			names = append(names, d.GetName())
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}))
}

// must panics on a mistake of this program.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
