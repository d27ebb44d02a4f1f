package cli

import (
	"runtime"

	"github.com/spf13/cobra"

	"github.com/nearside-dev/nearside/internal/telemetry"
)

func (app *App) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: app.Run(func(*cobra.Command, []string) error {
			if app.JSON {
				return app.WriteJSON(struct {
					Version  string `json:"version"`
					Go       string `json:"go"`
					Platform string `json:"platform"`
				}{telemetry.Version(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH})
			}
			app.printf(app.Stdout, "nearside %s (%s, %s/%s)\n", telemetry.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		}),
	}
}
