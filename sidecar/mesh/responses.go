package mesh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/servicedesc"
)

const (
	// maxKeptMessage is how large a request may be whose answer is kept.
	maxKeptMessage = 64 << 10
	// maxKeptAnswer is how large an answer may be that is kept, its head included.
	maxKeptAnswer = 1 << 20
	// maxRenewals is how many answers are made anew in the background at a time.
	maxRenewals = 64
	// renewTimeout is how long that may take.
	renewTimeout = 30 * time.Second
)

// Responses keeps answers of services in the region's memory. It may be used concurrently.
type Responses interface {
	// Look returns what is kept under a key, as it was given to keep, if it holds now for a caller with these headers: what names a
	// database must be as fresh as their bookmark of it. Nobody changes what it returns.
	Look(ctx context.Context, h http.Header, database string, key []byte) (kept []byte, ok bool)
	// Begin is called before a service is asked. What it answers may be kept until a table changes that has changed since.
	Begin(database string, tables []string) (keep func(key []byte, tag string, kept []byte, ttl time.Duration))
}

// rule says which answers of a method are kept. It is immutable.
type rule struct {
	ttl, stale time.Duration
	input      []servicedesc.Path // what of the message counts; empty is all
	message    *dynamicpb.Message // of the method's input, empty
	database   string
	tables     []string
	registered int64 // when the service was: what was kept before is another one's
	public     bool  // everybody is given the same, as the service sees no caller's credential
}

// responses is what a router has for the answers that are kept.
type responses struct {
	kept     Responses // nil where none are
	renewals chan struct{}

	mu     sync.Mutex
	asking map[[sha256.Size]byte]chan struct{} // closed when one has an answer
}

func newResponses(kept Responses) responses {
	return responses{kept: kept, renewals: make(chan struct{}, maxRenewals), asking: make(map[[sha256.Size]byte]chan struct{})}
}

// serveKept answers a call from what is kept, or asks the service and keeps that. It returns false where the call is none of those,
// and has nothing done then but read of the body, which can be read again.
func (r *Router) serveKept(w http.ResponseWriter, req *http.Request, p *identity.Principal, m *route) bool {
	if m.rule == nil || r.responses.kept == nil || req.ContentLength > maxKeptMessage {
		return false
	}
	var body []byte
	if req.Method == http.MethodPost {
		var err error
		body, err = io.ReadAll(io.LimitReader(req.Body, maxKeptMessage+1))
		req.Body = again{io.MultiReader(bytes.NewReader(body), failing{req.Body, err}), req.Body}
		if err != nil || len(body) > maxKeptMessage {
			return false
		}
	}
	q, ok := r.ask(req, p, m, body)
	if !ok {
		r.metrics.cache(m.service.name, keptPassed)
		return false
	}
	var late <-chan time.Time // nil is never
	if timeout := timeoutOf(req.Header); timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		late = timer.C
	}
	for range 2 {
		kept, ok := r.responses.kept.Look(req.Context(), req.Header, q.rule.database, q.key[:])
		if ok {
			old, answer := readKept(kept, time.Now())
			outcome := keptHit
			if old > q.rule.ttl {
				outcome = keptStale
				r.renew(req, p, m, q)
			}
			r.metrics.cache(m.service.name, outcome)
			answer.write(w, old)
			return true
		}
		done, leads := r.responses.lead(q.key)
		if leads {
			defer r.responses.landed(q.key, done)
			break
		}
		select {
		case <-done: // and look again: where nothing was kept this one asks too
		case <-late:
			r.refuse(w, req, errTimeoutWire)
			return true
		case <-req.Context().Done():
			r.refuse(w, req, connect.NewError(connect.CodeCanceled, req.Context().Err()))
			return true
		}
	}
	r.metrics.cache(m.service.name, keptMiss)
	r.keepAnswer(w, req, p, m, q)
	return true
}

// lead returns a channel that is closed when somebody has an answer for a key, and whether the caller is the one to get it.
func (s *responses) lead(key [sha256.Size]byte) (done chan struct{}, leads bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if done, ok := s.asking[key]; ok {
		return done, false
	}
	done = make(chan struct{})
	s.asking[key] = done
	return done, true
}

func (s *responses) landed(key [sha256.Size]byte, done chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.asking, key)
	close(done)
}

// keepAnswer passes a call on, and keeps a copy of what comes back if that is to be kept.
func (r *Router) keepAnswer(w http.ResponseWriter, req *http.Request, p *identity.Principal, m *route, q question) {
	keep := r.responses.kept.Begin(q.rule.database, q.rule.tables)
	c := &copying{ResponseWriter: w, framing: q.framing, public: q.rule.public, before: w.Header().Clone()}
	r.forward(c, req, p, m)
	if kept, ok := c.kept(time.Now()); ok {
		keep(q.key[:], m.procedure, kept, q.rule.ttl+q.rule.stale)
	}
}

// renew has an answer made anew in the background, unless somebody does so already or too many are.
func (r *Router) renew(req *http.Request, p *identity.Principal, m *route, q question) {
	r.ending.RLock()
	defer r.ending.RUnlock()
	if r.alive.Err() != nil {
		return
	}
	select {
	case r.responses.renewals <- struct{}{}:
	default:
		return
	}
	done, leads := r.responses.lead(q.key)
	if !leads {
		<-r.responses.renewals
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), renewTimeout)
	stop := context.AfterFunc(r.alive, cancel)
	again := req.Clone(ctx)
	again.Header.Del("Connect-Timeout-Ms") // the caller's
	again.Header.Del("Grpc-Timeout")
	again.Body = io.NopCloser(bytes.NewReader(q.body))
	r.renewing.Go(func() {
		defer func() {
			stop()
			cancel()
			r.responses.landed(q.key, done)
			<-r.responses.renewals
			if e := recover(); e != nil && e != http.ErrAbortHandler { //nolint:errorlint // it is that value
				r.logger.Error("an answer was not made anew", "procedure", m.procedure, "panic", e)
			}
		}()
		r.keepAnswer(&keptAnswer{header: make(http.Header), status: http.StatusOK}, again, p, m, q)
	})
}

// expressKeptAnswer answers a call from what is kept and good; ok is false where that is for others to do.
func (r *Router) expressKeptAnswer(ctx context.Context, req *http.Request, p *identity.Principal, m *route, body []byte, a *server.ExpressAnswer) (ok bool) {
	if r.responses.kept == nil || len(body) > maxKeptMessage {
		return false
	}
	q, ok := r.ask(req, p, m, body)
	if !ok {
		return false
	}
	kept, ok := r.responses.kept.Look(ctx, req.Header, q.rule.database, q.key[:])
	if !ok {
		return false
	}
	old, answer := readKept(kept, time.Now())
	if old > q.rule.ttl {
		return false
	}
	r.metrics.cache(m.service.name, keptHit)
	a.Bytes = append(append(a.Bytes, "HTTP/1.1 200 OK\r\n"...), answer.head...)
	a.Bytes = appendOwnLines(a.Bytes, old)
	a.EndHead(len(answer.body))
	a.Bytes = append(a.Bytes, answer.body...)
	return true
}

// again is a body of which some has been read.
type again struct {
	io.Reader
	io.Closer
}

// failing is a reader that has failed, if it has.
type failing struct {
	io.Reader

	err error
}

// Read implements io.Reader.
func (f failing) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return f.Reader.Read(p)
}

var errNoMethod = errors.New("no such method")

// setRule has a method's answers kept, as its row says.
func (s *service) setRule(method string, ttl, stale time.Duration, fields, database, tables string) error {
	for _, m := range s.routes {
		if m.procedure != servicedesc.Procedure(s.name, method) {
			continue
		}
		u := &rule{
			ttl: ttl, stale: stale, database: database, tables: split(tables), registered: s.registered, public: s.access == meshdb.AccessPublic && !s.pass,
		}
		if fields != "" {
			d, err := servicedesc.Read(s.set, s.name)
			if err != nil {
				return err
			}
			for _, now := range d.Methods {
				if now.Name != method {
					continue
				}
				u.message = dynamicpb.NewMessage(now.Input)
				for _, text := range split(fields) {
					path, err := servicedesc.PathOf(now.Input, text)
					if err != nil {
						return err
					}
					u.input = append(u.input, path)
				}
			}
		}
		m.rule = u
		return nil
	}
	return errNoMethod
}

func split(lines string) []string {
	if lines == "" {
		return nil
	}
	return strings.Split(lines, "\n")
}
