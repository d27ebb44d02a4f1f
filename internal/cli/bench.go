package cli

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/cli/render"
	"github.com/nearside-dev/nearside/internal/cli/workload"
	"github.com/nearside-dev/nearside/internal/histogram"
	"github.com/nearside-dev/nearside/internal/loadgen"
)

// The protocols of a load.
var benchProtocols = []string{"connect", "grpc", "json"}

// Bounds of a load.
const (
	maxBenchConnections = 10_000
	maxBenchKeys        = 100_000_000
	maxBenchRate        = 10_000_000
	benchWarmUpPart     = 10 // of the duration
)

func (app *App) benchCommand() *cobra.Command {
	b := &benchRun{app: app}
	var mix, distribution string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Put load on a mesh and show latencies",
		Long: `Put load on a mesh and show requests a second and latencies, for each kind of
request. It makes a table bench_rows in a database of its own, and leaves it there
for the next run.

Without --rate each connection makes its next request when the last one was
answered. With --rate requests are due at even intervals whatever becomes of
earlier ones, and latencies count from when a request was due: what a stall holds
up is in them. The load comes from the machine where this runs, so use another one
than the servers' for figures that mean something.`,
		Example: `  nearside bench --duration 5s
  nearside bench --rate 2000 --mix get=95,write=5 --distribution zipf --json`,
		Args: cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := b.check(mix, distribution); err != nil {
				return err
			}
			if err := b.target.connect(cmd); err != nil {
				return err
			}
			return b.run(cmd.Context())
		}),
	}
	b.target.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&b.load.Database, "db", "bench", "the database, created if there is none")
	flags.StringVar(&mix, "mix", workload.DefaultMix.String(), "percent of each kind of request: "+strings.Join(workload.Kinds, ", "))
	flags.IntVar(&b.load.Keys, "keys", 100_000, "rows in the table")
	flags.StringVar(&distribution, "distribution", "uniform", "of the keys: uniform or zipf")
	flags.Float64Var(&b.zipf, "zipf", 1.1, "exponent of the distribution zipf, over 1")
	flags.IntVar(&b.connections, "connections", 64, "connections at a time")
	flags.DurationVar(&b.duration, "duration", 10*time.Second, "how long, after a tenth of it to warm up")
	flags.IntVar(&b.rate, "rate", 0, "requests a second; 0 is as many as are answered")
	flags.StringVar(&b.protocol, "protocol", benchProtocols[0], strings.Join(benchProtocols, ", "))
	completeValues(cmd, "protocol", benchProtocols)
	completeValues(cmd, "distribution", []string{"uniform", "zipf"})
	b.target.completeDatabases(cmd)
	return cmd
}

// benchRun is one run of the command.
type benchRun struct {
	app         *App
	target      target
	load        workload.Workload
	zipf        float64
	connections int
	duration    time.Duration
	rate        int
	protocol    string
}

// check refuses flags that make no load.
func (b *benchRun) check(mix, distribution string) (err error) {
	if b.load.Mix, err = workload.ParseMix(mix); err != nil {
		return usagef("--mix %w", err)
	}
	switch distribution {
	case "uniform":
	case "zipf":
		b.load.Zipf = b.zipf
	default:
		return usagef("--distribution %q: want uniform or zipf", distribution)
	}
	switch {
	case !slices.Contains(benchProtocols, b.protocol):
		return usagef("--protocol %q: want %s", b.protocol, strings.Join(benchProtocols, ", "))
	case !(b.zipf > 1 && b.zipf <= 10):
		return usagef("--zipf %v: want more than 1 and at most 10", b.zipf)
	case b.load.Keys < 1 || b.load.Keys > maxBenchKeys:
		return usagef("--keys %d: want 1 to %d", b.load.Keys, maxBenchKeys)
	case b.connections < 1 || b.connections > maxBenchConnections:
		return usagef("--connections %d: want 1 to %d", b.connections, maxBenchConnections)
	case b.duration <= 0:
		return usagef("--duration %v: want more than nothing", b.duration)
	case b.rate < 0 || b.rate > maxBenchRate:
		return usagef("--rate %d: want 0 to %d", b.rate, maxBenchRate)
	}
	return nil
}

func (b *benchRun) run(ctx context.Context) error {
	err := b.load.Prepare(ctx, b.target.data, func(done int) {
		if b.app.StderrTerminal {
			b.app.printf(b.app.Stderr, "\r%s", render.Count(int64(done), "row"))
		}
	})
	if b.app.StderrTerminal {
		b.app.printf(b.app.Stderr, "\r%s\r", strings.Repeat(" ", 40))
	}
	if err != nil {
		return err
	}
	plan := loadgen.Plan{
		Kinds: workload.Kinds, Rate: b.rate, WarmUp: b.duration / benchWarmUpPart, Duration: b.duration, Begun: b.load.Forget,
	}
	for i := range b.connections {
		transport := b.transport()
		defer transport.CloseIdleConnections()
		plan.Tasks = append(plan.Tasks, b.load.Task(b.client(transport), uint64(i)))
	}
	r, err := loadgen.Run(ctx, plan)
	if err != nil {
		return err
	}
	if err := b.show(r); err != nil {
		return err
	}
	if all := r.Total(); all.LastErr != nil && all.Errors == all.Requests {
		return shownError{fmt.Errorf("no request succeeded: %w", all.LastErr)}
	}
	return nil
}

// transport has one connection.
func (b *benchRun) transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxConnsPerHost, t.DisableCompression = 1, true
	if b.protocol == "grpc" {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetUnencryptedHTTP2(true)
		t.Protocols.SetHTTP2(true)
	}
	return t
}

func (b *benchRun) client(transport *http.Transport) datav1connect.DataServiceClient {
	options := []connect.ClientOption{
		connect.WithReadMaxBytes(maxAnswerBytes), connect.WithAcceptCompression("gzip", nil, nil),
		connect.WithInterceptors(&credentials{token: b.target.Token, timeout: b.target.Timeout}),
	}
	switch b.protocol {
	case "grpc":
		options = append(options, connect.WithGRPC())
	case "json":
		options = append(options, connect.WithProtoJSON())
	}
	return datav1connect.NewDataServiceClient(&http.Client{Transport: transport}, b.target.URL, options...)
}

// loadJSON is what came back for a kind of request, as programs read it.
type loadJSON struct {
	Kind     string  `json:"kind"`
	Requests uint64  `json:"requests"`
	Errors   uint64  `json:"errors"`
	Rate     float64 `json:"requestsPerSecond"`
	P50Ms    float64 `json:"p50Ms"`
	P90Ms    float64 `json:"p90Ms"`
	P95Ms    float64 `json:"p95Ms"`
	P99Ms    float64 `json:"p99Ms"`
	P999Ms   float64 `json:"p999Ms"`
	MaxMs    float64 `json:"maxMs"`
}

func loadOf(k *loadgen.Kind, elapsed time.Duration) loadJSON {
	ms := func(q float64) float64 { return quantileMs(&k.Latency, q) }
	return loadJSON{
		Kind: k.Name, Requests: k.Requests, Errors: k.Errors, Rate: float64(k.Requests-k.Errors) / elapsed.Seconds(),
		P50Ms: ms(0.5), P90Ms: ms(0.9), P95Ms: ms(0.95), P99Ms: ms(0.99), P999Ms: ms(0.999), MaxMs: ms(1),
	}
}

func quantileMs(h *histogram.Histogram, q float64) float64 {
	return float64(h.Quantile(q).Microseconds()) / 1000
}

func (b *benchRun) show(r *loadgen.Result) error {
	all := r.Total()
	list := []loadJSON{loadOf(&all, r.Elapsed)}
	for i := range r.Kinds {
		if r.Kinds[i].Requests > 0 {
			list = append(list, loadOf(&r.Kinds[i], r.Elapsed))
		}
	}
	if b.app.JSON {
		return b.app.WriteJSON(struct {
			URL         string            `json:"url"`
			Protocol    string            `json:"protocol"`
			Connections int               `json:"connections"`
			Rate        int               `json:"rate"`
			Keys        int               `json:"keys"`
			Mix         string            `json:"mix"`
			Seconds     float64           `json:"seconds"`
			Missed      uint64            `json:"missed"`
			Sources     map[string]uint64 `json:"sources"`
			Load        []loadJSON        `json:"load"`
		}{
			b.target.URL, b.protocol, b.connections, b.rate, b.load.Keys, b.load.Mix.String(), r.Elapsed.Seconds(), r.Missed,
			b.load.Sources(), list,
		})
	}
	rows := make([][]string, len(list))
	for i, l := range list {
		rows[i] = []string{l.Kind, render.Group(int64(l.Requests)), render.Group(int64(l.Errors)), render.Group(int64(l.Rate))}
		for _, ms := range []float64{l.P50Ms, l.P95Ms, l.P99Ms, l.P999Ms, l.MaxMs} {
			rows[i] = append(rows[i], fmt.Sprintf("%.2f", ms))
		}
	}
	err := render.Table(b.app.Stdout, []string{"request", "count", "errors", "/s", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "max ms"}, rows,
		[]bool{false, true, true, true, true, true, true, true, true})
	if err != nil {
		return err
	}
	var sources []string
	for name, n := range b.load.Sources() {
		sources = append(sources, fmt.Sprintf("%s %s", render.Group(int64(n)), name))
	}
	slices.Sort(sources)
	b.app.printf(b.app.Stdout, "(%s over %d connections, %.1f s, reads from %s)\n", b.protocol, b.connections, r.Elapsed.Seconds(),
		strings.Join(sources, ", "))
	if r.Missed > 0 {
		b.app.printf(b.app.Stdout, "%s not begun in time: the rate is more than could be served\n", render.Count(int64(r.Missed), "request"))
	}
	if all.LastErr != nil {
		b.app.printf(b.app.Stdout, "the last error: %v\n", all.LastErr)
	}
	return nil
}
