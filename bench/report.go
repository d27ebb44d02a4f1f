package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/nearside-dev/nearside/bench/internal/load"
	"github.com/nearside-dev/nearside/bench/internal/process"
	"github.com/nearside-dev/nearside/internal/histogram"
)

// report is what was measured.
type report struct {
	fillSeconds float64
	hops        []hop // the echo first
	cold        cold
	afterReads  process.Memory
	lag         lag

	applied      int // rows, while the region was complete
	applySeconds float64

	nextID int64 // of a row that nobody has written
}

// hop is one call, repeated.
type hop struct {
	name   string
	result *load.Result
	cpu    time.Duration // of the servers
	peak   []uint64      // bytes, of each
}

// cold is a sidecar that began with nothing.
type cold struct {
	took       time.Duration
	rows       int
	cpu        time.Duration
	memory     process.Memory
	wirePerRow float64
}

// lag is how long commits take to another region, and what they cost.
type lag struct {
	regions          int
	rate             float64
	look             histogram.Histogram // from the writer's answer to the answer of another region that has the row
	write            histogram.Histogram
	misses           uint64 // looks that the primary had to answer
	wireDown, wireUp float64
	cores            float64 // of primary and sidecars together
}

func echoName(bytes int) string { return fmt.Sprintf("bare connect-go echo, %d bytes", bytes) }

// cpuPer100k returns the processor seconds of a hundred thousand requests.
func (h *hop) cpuPer100k() float64 { return h.cpu.Seconds() / float64(h.result.Requests) * 100_000 }

// write prints the tables.
func (r *report) write(w io.Writer, s settings) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s, %s; %d clients, %v a measurement, %d rows of 200 bytes with two indexes\n\n",
		time.Now().UTC().Format("2006-01-02 15:04 UTC"), machine(), s.clients, s.duration, s.rows)
	out.WriteString("| call | requests/s | p50 ms | p99 ms | server CPU s per 100 k | × echo | peak memory MiB |\n" +
		"|---|---|---|---|---|---|---|\n")
	for i := range r.hops {
		h := &r.hops[i]
		var peak []string
		for _, bytes := range h.peak {
			peak = append(peak, mebibytes(bytes))
		}
		fmt.Fprintf(&out, "| %s | %.0f | %s | %s | %.2f | %.2f | %s |\n", h.name, h.result.Rate(),
			milliseconds(&h.result.Latency, 0.5), milliseconds(&h.result.Latency, 0.99),
			h.cpuPer100k(), h.cpuPer100k()/r.hops[0].cpuPer100k(), strings.Join(peak, " + "))
	}
	c, l := &r.cold, &r.lag
	out.WriteString("\n| measure | value |\n|---|---|\n")
	for _, line := range [][2]string{
		{"rows into the primary by BatchInsert", fmt.Sprintf("%.0f rows/s", float64(s.rows)/r.fillSeconds)},
		{fmt.Sprintf("cold sidecar takes %d rows", c.rows), fmt.Sprintf("%.1f s, of its own CPU %.1f s", c.took.Seconds(), c.cpu.Seconds())},
		{"– applied", fmt.Sprintf("%.0f rows/s, start of the process included", float64(c.rows)/c.took.Seconds())},
		{"apply, one database", fmt.Sprintf("%.0f rows/s of the time that it applies, %d rows", float64(r.applied)/r.applySeconds, r.applied)},
		{"– bytes on the wire", fmt.Sprintf("%.0f a row", c.wirePerRow)},
		{"– its resident memory then (peak)", fmt.Sprintf("%s MiB (%s)", mebibytes(c.memory.Resident), mebibytes(c.memory.Peak))},
		{"– its resident memory under read load (peak)", fmt.Sprintf("%s MiB (%s)", mebibytes(r.afterReads.Resident), mebibytes(r.afterReads.Peak))},
		{"writes/s while the lag is measured", fmt.Sprintf("%.0f, %d regions, %.2f cores in all", l.rate, l.regions, l.cores)},
		{"– the write's answer, p50 / p99", milliseconds(&l.write, 0.5) + " / " + milliseconds(&l.write, 0.99) + " ms"},
		{"– from there to the row's answer in a region, p50 / p99", milliseconds(&l.look, 0.5) + " / " + milliseconds(&l.look, 0.99) + " ms"},
		{"– answered by the primary instead", fmt.Sprintf("%d of %d", l.misses, l.look.Count())},
		{"– wire bytes per one-row commit, down (up)", fmt.Sprintf("%.0f (%.0f)", l.wireDown, l.wireUp)},
	} {
		fmt.Fprintf(&out, "| %s | %s |\n", line[0], line[1])
	}
	_, err := w.Write(out.Bytes())
	return err
}

func milliseconds(h *histogram.Histogram, q float64) string {
	return fmt.Sprintf("%.2f", float64(h.Quantile(q))/float64(time.Millisecond))
}

func mebibytes(n uint64) string { return fmt.Sprintf("%d", n>>20) }

// machine describes where this runs.
func machine() string {
	model := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d cores of %s, %s", runtime.NumCPU(), model, runtime.Version())
}
