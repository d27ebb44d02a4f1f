package faults_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nearside-dev/nearside/internal/meshtest/faultproxy"
)

// everyByte has these tests go through all bytes, which takes minutes. Otherwise they take some, and others in each run.
const everyByte = "NEARSIDE_TEST_EVERY_BYTE"

// positions returns where to begin and how far to go on each time, when some of the bytes are taken.
func positions(t *testing.T, some int64) (first, stride int64) {
	t.Helper()
	if os.Getenv(everyByte) != "" {
		return 0, 1
	}
	if testing.Short() && some < 100 {
		some *= 8
	}
	first = rand.Int64N(some)
	t.Logf("each %dth byte from byte %d on", some, first)
	return first, some
}

var sides = []faultproxy.Side{faultproxy.Up, faultproxy.Down}

// TestEveryKindCut cuts the link at bytes of the request and the answer of each kind of forwarded write, once or for good.
func TestEveryKindCut(t *testing.T) {
	ways := map[string]fault{"once": cutOnce, "good": cutForGood}
	first, stride := positions(t, 11)
	var running sync.WaitGroup
	for region, w := range startFaulty(t, "once", "good") {
		running.Go(func() {
			writes := 0
			for _, side := range sides {
				n := first
				for w.write(fmt.Sprintf("%s_%v_%04d", region, side, n), 30*time.Second, ways[w.way], side, n) {
					n += stride
					writes++
				}
			}
			t.Logf("%s: %d writes cut, outcome unknown of %d, %d refused", region, writes, w.unknown, w.refused)
			repeats := w.kind.name != "CreateDatabase" // plain creation is not: what is there may be another's
			if w.way == "good" && w.unknown == 0 || w.way == "once" && repeats && w.unknown+w.refused > 0 {
				t.Errorf("%s: outcome unknown of %d, %d refused", region, w.unknown, w.refused)
			}
		})
	}
	running.Wait()
}

// TestEveryKindLost has the link lose everything after bytes of the request or the answer, without an end: the caller hears
// before its deadline that the outcome is not known, and a repeat finds out.
func TestEveryKindLost(t *testing.T) {
	first, stride := positions(t, 193)
	var running sync.WaitGroup
	for region, w := range startFaulty(t, "lost") {
		running.Go(func() {
			for _, side := range sides {
				n := first
				for w.write(fmt.Sprintf("%s_%v_%04d", region, side, n), 2*time.Second, lose, side, n) {
					n += stride
				}
			}
			if w.unknown == 0 {
				t.Errorf("%s: no outcome was unknown", region)
			}
		})
	}
	running.Wait()
}

// TestEveryKindRepeatedByTheNetwork has the network send forwarded writes again: all of their bytes or those up to some byte,
// in two pieces, before the region's own request and after it.
func TestEveryKindRepeatedByTheNetwork(t *testing.T) {
	first, stride := positions(t, 7)
	for region, w := range startFaulty(t, "again") {
		primary := w.m.Client("")
		write := func(name string, f fault) (sent []byte) {
			if w.kind.prepare != nil {
				w.kind.prepare(t, primary, name)
			}
			w.calm()
			tap := w.link.Tap(faultproxy.HTTP1, faultproxy.Up)
			if f != nil {
				f(w.link, faultproxy.Up, 0)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if f == nil {
				ctx = t.Context()
			}
			if err := w.kind.write(ctx, w.m.Client(w.region), "", name); (err != nil) != (f != nil) {
				t.Errorf("%s: %v", name, err)
			}
			cancel()
			sent = firstRequest(t, tap.Bytes())
			w.link.Heal()
			return sent
		}
		check := func(name string, want int64, what string, args ...any) {
			if got := w.kind.times(t, primary, name); got != want {
				t.Errorf("%s: done %d times after %s, want %d", name, got, fmt.Sprintf(what, args...), want)
			}
		}

		after := region + "_after"
		sent := write(after, nil)
		for n := first; n < int64(len(sent)); n += stride {
			raw(t, w.m.PrimaryURL(), false, sent[:n])
			raw(t, w.m.PrimaryURL(), true, sent[:n], sent[n:])
		}
		check(after, 1, "%d repeats", len(sent))

		// The region's own request never arrives, and then what the network had kept does, first without its end.
		before := region + "_before"
		sent = write(before, lose)
		for n := first; n < int64(len(sent)); n += stride {
			raw(t, w.m.PrimaryURL(), false, sent[:n])
		}
		check(before, 0, "requests without their end")
		for range 2 {
			raw(t, w.m.PrimaryURL(), true, sent)
			check(before, 1, "a late request")
		}
	}
}

// firstRequest returns the bytes of the first HTTP/1.1 request in what went over connections.
func firstRequest(t *testing.T, sent []byte) []byte {
	t.Helper()
	rest := strings.NewReader(string(sent))
	in := bufio.NewReader(rest)
	req, err := http.ReadRequest(in)
	if err == nil {
		_, err = io.Copy(io.Discard, req.Body)
	}
	if err != nil {
		t.Fatalf("no request in %q: %v", sent, err)
	}
	return sent[:len(sent)-rest.Len()-in.Buffered()]
}

// raw sends the pieces of a request, or of its beginning, over a connection of their own and waits for the answer, which
// nobody hears.
func raw(t *testing.T, url string, whole bool, pieces ...[]byte) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, piece := range pieces {
		if _, err := conn.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	if whole { // and no end of the connection, which would end the call
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Error(err)
		}
		return
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, conn)
}
