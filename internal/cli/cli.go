package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nearside-dev/nearside/internal/config"
	"github.com/nearside-dev/nearside/internal/telemetry"
)

// The exit codes.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// System is what the program sees of the world.
type System struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Environ        []string
	// StdinTerminal, StdoutTerminal and StderrTerminal say whether a person is at the other end.
	StdinTerminal, StdoutTerminal, StderrTerminal bool

	takeTerminal bool // the prompt may take over the process's own terminal
}

// OS returns the process's own System.
func OS() System {
	s := System{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ(),
		StdinTerminal:  term.IsTerminal(int(os.Stdin.Fd())),
		StdoutTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		StderrTerminal: term.IsTerminal(int(os.Stderr.Fd())),
	}
	s.takeTerminal = s.StdinTerminal && s.StdoutTerminal
	return s
}

// env returns a variable of the environment, or "".
func (s *System) env(name string) string {
	value := ""
	for _, pair := range s.Environ { // of two, the last one counts
		if n, v, ok := strings.Cut(pair, "="); ok && n == name {
			value = v
		}
	}
	return value
}

// colors reports whether standard output is to have colours: it is a terminal that has some, and NO_COLOR is not set.
func (s *System) colors() bool {
	return s.StdoutTerminal && s.env("NO_COLOR") == "" && s.env("TERM") != "dumb"
}

// App is what all commands share.
type App struct {
	System

	// JSON says that the answer goes to a program.
	JSON bool

	configFile string
	running    bool // the usage was right; what fails from here on is the operation
}

// Main runs the command that args name and returns the exit code. The extra commands join the package's own.
func Main(ctx context.Context, system System, args []string, extra ...func(*App) *cobra.Command) int {
	app := &App{System: system}
	root := app.root()
	for _, add := range extra {
		root.AddCommand(add(app))
	}
	root.SetArgs(statements(args))
	root.SetIn(system.Stdin)
	root.SetOut(system.Stdout)
	root.SetErr(system.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	_, wrongUse := errors.AsType[*usageError](err)
	failed := app.running && !wrongUse
	app.report(err, failed)
	if failed {
		return ExitFailed
	}
	app.printf(app.Stderr, "Run '%s --help' for how it is used.\n", cmd.CommandPath())
	return ExitUsage
}

// statements returns args with a space in front of those that are no flags but SQL that begins with a comment.
func statements(args []string) []string {
	args = slices.Clone(args)
	for i, arg := range args {
		if rest, ok := strings.CutPrefix(arg, "--"); ok && rest != "" && strings.ContainsAny(rest[:1], " \t\r\n") {
			args[i] = " " + arg
		}
	}
	return args
}

func (app *App) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "nearside",
		Short: "A service mesh with the data beside it",
		Long: `Nearside is a Connect/gRPC service mesh with the data beside it: reads are answered
in their region, writes go to one primary.

Start a mesh of three regions on this machine with "nearside up", then try
"nearside sql 'SELECT * FROM greetings'" in another terminal.

Settings marked with a [NEARSIDE_…] variable come from the flag, else from that
variable, else from the YAML file of --config or NEARSIDE_CONFIG (the key is the
flag's name), else they have their default.`,
		Version:           telemetry.Version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: app.configure,
		RunE:              missingCommand,
	}
	root.SetVersionTemplate("nearside {{.Version}}\n")
	root.PersistentFlags().StringVar(&app.configFile, "config", "", "YAML file with settings ["+config.FileVariable+"]")
	config.NewSet(root.PersistentFlags()).Bool(&app.JSON, "json", "answer in JSON, for programs")
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show how a command is used",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return fmt.Errorf("unknown command %q", strings.Join(args, " "))
			}
			return found.Help()
		},
	})
	root.AddCommand(
		app.sqlCommand(), app.dbCommand(), app.importCommand(), app.exportCommand(), app.migrateCommand(), app.statusCommand(),
		app.verifyCommand(), app.cacheCommand(), app.benchCommand(), app.versionCommand(), app.completionCommand(), app.watchCommand(),
		app.tokenCommand(), app.userCommand(), app.loginCommand(), app.limitCommand(), app.nodeCommand(), app.serviceCommand(),
		app.corsCommand(), app.auditCommand(), app.policyCommand(),
	)
	return root
}

// configure completes the command's flags from the environment and the file, before cobra looks for required ones.
func (app *App) configure(cmd *cobra.Command, _ []string) error {
	var known []string
	var collect func(*cobra.Command)
	collect = func(c *cobra.Command) {
		known = append(known, config.Names(c.LocalFlags())...)
		for _, sub := range c.Commands() {
			collect(sub)
		}
	}
	collect(cmd.Root())
	src := config.Sources{Environ: app.Environ, File: app.configFile, Known: known}
	return config.Load(cmd.Flags(), src)
}

// Run wraps a command's function: what it returns is a failed operation, unless it is a usage error.
func (app *App) Run(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		app.running = true
		return f(cmd, args)
	}
}

// usageError is a wrong use that only shows when the command runs.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// Usage marks err as wrong use of the command; nil stays nil.
func Usage(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err}
}

func usagef(format string, args ...any) error { return Usage(fmt.Errorf(format, args...)) }

func missingCommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unknown command %q for %q", args[0], cmd.CommandPath())
	}
	return usagef("%q wants a command behind it", cmd.CommandPath())
}

// printf writes what a person reads. That it cannot be written is not worth another error.
func (app *App) printf(w io.Writer, format string, args ...any) {
	fmt.Fprintf(w, format, args...) //nolint:errcheck // see above
}
