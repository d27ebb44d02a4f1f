package mesh

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	checkInterval = 30 * time.Second
	checkTimeout  = 5 * time.Second
	checkTries    = 3
	checkPause    = time.Second     // between two tries
	checkDown     = 2 * time.Second // interval of an endpoint that is down
	checkTick     = 2 * time.Second // how often what is due is looked for
	maxChecks     = 16              // at a time

	// slowConnect is how long a connection may take to be made before who waits no longer has learned something about the endpoint.
	slowConnect = 500 * time.Millisecond
)

const healthPath = "/grpc.health.v1.Health/Check"

// Run checks endpoints until ctx ends, and then lets go of all connections that no call has.
func (r *Router) Run(ctx context.Context) {
	var checks sync.WaitGroup
	defer r.close()
	defer checks.Wait()
	places := make(chan struct{}, maxChecks)
	tick := time.NewTicker(checkTick)
	defer tick.Stop()
	for {
		if t := r.latest(); t != nil {
			for _, s := range t.services {
				for _, e := range s.endpoints {
					e.pool.tidy(time.Now())
					if e.checked.Load() > int64(time.Since(r.began)) || !e.checking.CompareAndSwap(false, true) {
						continue
					}
					select {
					case places <- struct{}{}:
					default:
						e.checking.Store(false)
						continue // with the next tick
					}
					checks.Go(func() {
						defer func() { <-places }()
						r.check(ctx, e)
						e.checking.Store(false)
					})
				}
			}
		}
		select {
		case <-tick.C:
		case <-r.due:
		case <-ctx.Done():
			return
		}
	}
}

// unreached notes that a call could not be sent to an endpoint, of which nobody knows better why than a check does. One that had a
// check within the last second has to wait for that second to end.
func (r *Router) unreached(e *endpoint) {
	if e.down.Load() || !e.suspected.CompareAndSwap(0, max(1, int64(time.Since(r.began)))) {
		return
	}
	e.checked.Add(int64(checkPause - checkInterval))
	r.checkSoon()
}

// checkSoon has the checks that are due made at once.
func (r *Router) checkSoon() {
	select {
	case r.due <- struct{}{}:
	default: // they are looked for already
	}
}

// check finds out how an endpoint is.
func (r *Router) check(ctx context.Context, e *endpoint) {
	suspected := e.suspected.Load()
	var err error
	for i := range checkTries {
		if i > 0 && !sleep(ctx, checkPause) {
			return
		}
		begun := time.Now()
		if err = r.tryCheck(ctx, e); err == nil {
			e.rtt.Store(max(1, int64(time.Since(begun))))
			break
		}
		if e.down.Load() {
			break // it does not have to prove it again
		}
	}
	if ctx.Err() != nil {
		return
	}
	next := checkInterval
	if err != nil {
		next = checkDown
	}
	e.checked.Store(int64(time.Since(r.began) + next))
	if !e.suspected.CompareAndSwap(suspected, 0) { // since this check began
		e.checked.Store(int64(time.Since(r.began) + checkPause))
	}
	if e.down.Swap(err != nil) == (err != nil) {
		return
	}
	if err != nil {
		r.logger.Warn("endpoint is down", "service", e.service, "region", e.region, "endpoint", e.url, "error", err)
	} else {
		r.logger.Info("endpoint is up again", "service", e.service, "region", e.region, "endpoint", e.url)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errNotServing is what an endpoint says of itself.
var errNotServing = errors.New("says that it does not serve")

// tryCheck asks an endpoint's health service. One that has none but answers is well.
func (r *Router) tryCheck(ctx context.Context, e *endpoint) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if e.base.Scheme == "http" {
		spoken, err := speaksHTTP2(ctx, e.pool.address)
		if err != nil {
			return err
		}
		if !spoken {
			e.http2.Store(h2Not)
			return r.askConnect(ctx, e)
		}
		e.http2.Store(h2Spoken)
		return r.askGRPC(ctx, e)
	}
	err := r.askGRPC(ctx, e)
	if err != nil && ctx.Err() == nil && !errors.Is(err, errNotServing) {
		if other := r.askConnect(ctx, e); other == nil || errors.Is(other, errNotServing) {
			e.http2.Store(h2Not)
			return other
		}
	}
	return err
}

func (r *Router) askGRPC(ctx context.Context, e *endpoint) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url+healthPath, bytes.NewReader(make([]byte, 5)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	res, err := r.http2.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // all that matters was read
	answer, err := io.ReadAll(io.LimitReader(res.Body, 64))
	if err != nil {
		return err
	}
	status := res.Trailer.Get("Grpc-Status")
	if status == "0" && len(answer) == 7 && answer[5] == 8 && answer[6] != 1 {
		return errNotServing // the status, which is the only field, is not SERVING
	}
	if res.StatusCode == http.StatusBadGateway || res.StatusCode == http.StatusServiceUnavailable || status == "14" {
		return fmt.Errorf("answers %s %s", res.Status, status)
	}
	return nil
}

func (r *Router) askConnect(ctx context.Context, e *endpoint) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url+healthPath, strings.NewReader("{}"))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Connect-Protocol-Version", "1")
	res, err := r.http1.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // all that matters was read
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return err
	}
	switch res.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return fmt.Errorf("answers %s", res.Status)
	case http.StatusOK:
		var answer struct {
			Status string `json:"status"`
		}
		if json.Unmarshal(text, &answer) == nil && answer.Status != "" && answer.Status != "SERVING" {
			return errNotServing
		}
	}
	return nil
}

// learn returns what is known of an endpoint's protocols; where nothing is, before its first check, it is asked.
func (e *endpoint) learn(ctx context.Context) int32 {
	if known := e.http2.Load(); known != h2Unknown || e.base.Scheme != "http" {
		return known
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if spoken, err := speaksHTTP2(ctx, e.pool.address); err == nil {
		e.http2.Store(map[bool]int32{true: h2Spoken, false: h2Not}[spoken])
	}
	return e.http2.Load()
}

// speaksHTTP2 reports whether who listens at an address speaks HTTP/2 without TLS and without being asked first.
func speaksHTTP2(ctx context.Context, address string) (bool, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false, err
	}
	defer conn.Close() //nolint:errcheck // all that matters was read
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return false, err
	}
	const settings = 4
	frame := []byte{0, 0, 0, settings, 0, 0, 0, 0, 0}
	if _, err := conn.Write(append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame...)); err != nil {
		return false, err
	}
	if _, err := io.ReadFull(conn, frame); err != nil {
		if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return false, err
		}
		return false, nil // it did not like it, and is there
	}
	return frame[3] == settings && binary.BigEndian.Uint32(frame[5:]) == 0 && string(frame[:4]) != "HTTP", nil
}
