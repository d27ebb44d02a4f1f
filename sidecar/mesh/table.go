package mesh

import (
	"bytes"
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"time"

	"github.com/nearside-dev/nearside/internal/fieldrules"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/servicedesc"
	"github.com/nearside-dev/nearside/internal/value"
)

// Version names a state of _mesh.
type Version struct {
	Epoch   uint32
	Version uint64
}

// Source is where a router has the rows of _mesh from.
type Source interface {
	// Version returns the present state; ok is false where there is none yet. It is called for each request.
	Version() (v Version, ok bool)
	// Read calls f for each row of the tables of meshdb.ServiceTables with the values of the columns that are named there, which
	// are valid during the call, and returns the state that they are of.
	Read(f func(table string, values []value.Value) error) (Version, error)
}

// table is what the rows say at one version. It is immutable, but for the state of its endpoints.
type table struct {
	version  Version
	services map[string]*service
	routes   map[string]*route // by procedure
}

// service is a registered one.
type service struct {
	name, access, role string
	pass               bool // it gets to see its callers' credentials
	registered         int64
	set                []byte
	rules              *fieldrules.Service // of its requests; nil where there are none
	unchecked          bool                // they are its own to look at
	routes             []*route
	grpc               http.Handler // turns calls of other protocols into gRPC; nil where that is not needed
	endpoints          []*endpoint  // near ones first
	near               int          // how many of them are near
	metrics            *serviceMetrics
}

// route is a method of a service.
type route struct {
	service   *service
	procedure string
	unary     bool
	rule      *rule              // of which answers are kept; nil is none
	rules     *fieldrules.Method // of its requests; nil is none

	clientStreaming bool
}

// place is where an endpoint is, as its row says it.
type place struct{ service, region, url string }

// Registered is a service as its rows say it.
type Registered struct {
	Name       string
	Set        []byte // google.protobuf.FileDescriptorSet, not to be changed
	Public     bool   // everybody may call it
	Registered int64  // nanoseconds since 1970
}

// Registered returns the registered services, those that were registered first in front. mark is the same as long as nothing of
// _mesh has changed; where it is the given one, there is no list.
func (r *Router) Registered(known any) (list []Registered, mark any) {
	t := r.latest()
	if t == known {
		return nil, t
	}
	if t != nil {
		for _, s := range t.services {
			list = append(list, Registered{
				Name: s.name, Set: s.set, Public: s.access == meshdb.AccessPublic || !r.secured, Registered: s.registered,
			})
		}
	}
	slices.SortFunc(list, func(a, b Registered) int {
		return cmp.Or(cmp.Compare(a.Registered, b.Registered), cmp.Compare(a.Name, b.Name))
	})
	return list, t
}

// latest returns the table as the rows are now; where they cannot be read, as they were. It is nil before there are any.
func (r *Router) latest() *table {
	version, ok := r.source.Version()
	t := r.current.Load()
	if !ok || t != nil && t.version == version {
		return t
	}
	if t == nil {
		r.reading.Lock()
	} else if !r.reading.TryLock() {
		return t // somebody reads it just now
	}
	defer r.reading.Unlock()
	if t = r.current.Load(); t != nil && t.version == version {
		return t
	}
	next, err := r.read(t)
	if err != nil {
		r.logger.Warn("registered services not read", "error", err)
		return t
	}
	r.current.Store(next)
	r.checkSoon() // what is new
	r.forget(t, next)
	r.compile(t, next)
	return next
}

// read makes a table. Services and endpoints that were there before stay the same, with what is known of them.
func (r *Router) read(old *table) (*table, error) {
	t := &table{services: make(map[string]*service), routes: make(map[string]*route)}
	places := make(map[string][]place)
	var grpc []*service
	version, err := r.source.Read(func(name string, v []value.Value) error {
		switch name {
		case meshdb.TableServices:
			s, err := r.readService(old, v)
			if err != nil {
				r.logger.Warn("registered service left out", "service", v[0].Text(), "error", err)
				return nil // the others are well
			}
			t.services[s.name] = s
		case meshdb.TableServiceEndpoints:
			p := place{service: v[0].Text(), region: v[1].Text(), url: v[2].Text()}
			places[p.service] = append(places[p.service], p)
		case meshdb.TableServiceProtocols:
			if s := t.services[v[0].Text()]; s != nil && v[1].Text() == meshdb.ProtocolGRPC {
				grpc = append(grpc, s)
			}
		case meshdb.TableServiceUnchecked:
			if s := t.services[v[0].Text()]; s != nil {
				s.unchecked = true
			}
		case meshdb.TableServiceCaches:
			s := t.services[v[0].Text()]
			if s == nil {
				return nil
			}
			err := s.setRule(v[1].Text(), time.Duration(v[2].Integer()), time.Duration(v[3].Integer()), v[4].Text(), v[5].Text(), v[6].Text())
			if err != nil {
				r.logger.Warn("answers of a service are not kept", "service", s.name, "method", v[1].Text(), "error", err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read registered services: %w", err)
	}
	t.version = version
	for _, s := range grpc {
		if s.grpc, err = r.turner(old, s); err != nil {
			r.logger.Warn("registered service left out", "service", s.name, "error", err)
			delete(t.services, s.name)
		}
	}
	for name, s := range t.services {
		if s.endpoints, s.near, err = r.endpointsOf(old, places[name]); err != nil {
			r.logger.Warn("registered service left out", "service", name, "error", err)
			delete(t.services, name)
			continue
		}
		for _, route := range s.routes {
			if !s.unchecked {
				route.rules = s.rules.Method(path.Base(route.procedure))
			}
			t.routes[route.procedure] = route
		}
	}
	return t, nil
}

func (r *Router) readService(old *table, v []value.Value) (*service, error) {
	s := &service{
		name: v[0].Text(), access: v[2].Text(), role: v[3].Text(), pass: v[4].Integer() != 0, registered: v[5].Integer(),
	}
	var methods []servicedesc.Method
	if was := old.service(s.name); was != nil && was.registered == s.registered && bytes.Equal(was.set, v[1].Bytes()) {
		s.set, s.metrics, s.rules = was.set, was.metrics, was.rules
		for _, m := range was.routes {
			s.routes = append(s.routes, &route{
				service: s, procedure: m.procedure, unary: m.unary, clientStreaming: m.clientStreaming,
			})
		}
		return s, nil
	}
	d, err := servicedesc.Read(v[1].Bytes(), s.name)
	if err != nil {
		return nil, err
	}
	s.set, methods, s.rules = bytes.Clone(v[1].Bytes()), d.Methods, fieldrules.Of(d)
	s.metrics = r.metrics.of(s.name)
	for _, m := range methods {
		s.routes = append(s.routes, &route{
			service: s, procedure: servicedesc.Procedure(s.name, m.Name), unary: !m.ClientStreaming && !m.ServerStreaming,
			clientStreaming: m.ClientStreaming,
		})
	}
	return s, nil
}

func (t *table) service(name string) *service {
	if t == nil {
		return nil
	}
	return t.services[name]
}

// endpointsOf returns a service's endpoints, near ones first, and how many are near.
func (r *Router) endpointsOf(old *table, places []place) (endpoints []*endpoint, near int, err error) {
	for _, p := range places {
		e := old.service(p.service).endpoint(p)
		if e == nil {
			u, err := url.Parse(p.url)
			if err != nil {
				return nil, 0, err
			}
			e = r.newEndpoint(p, u)
		}
		if e.near {
			near++
		}
		endpoints = append(endpoints, e)
	}
	slices.SortStableFunc(endpoints, func(a, b *endpoint) int { return cmp.Compare(rank(a), rank(b)) })
	return endpoints, near, nil
}

func rank(e *endpoint) int {
	if e.near {
		return 0
	}
	return 1
}

func (s *service) endpoint(p place) *endpoint {
	if s == nil {
		return nil
	}
	for _, e := range s.endpoints {
		if e.place == p {
			return e
		}
	}
	return nil
}

// compile has the rules of services that were not there before made ready, in the background: a call that comes before waits for its own
// service's alone. The registrar has compiled them too, so those that cannot be are of before it did; their methods fail.
func (r *Router) compile(old, next *table) {
	r.ending.RLock()
	defer r.ending.RUnlock()
	if r.alive.Err() != nil {
		return
	}
	r.renewing.Go(func() {
		for name, s := range next.services {
			if was := old.service(name); was != nil && was.rules == s.rules || s.unchecked || r.alive.Err() != nil {
				continue
			}
			if err := s.rules.Compile(); err != nil {
				r.logger.Error("requests to a service cannot be checked", "service", name, "error", err)
			}
		}
	})
}

// forget lets go of what an old table has and the next one has not.
func (r *Router) forget(old, next *table) {
	if old == nil {
		return
	}
	for name, s := range old.services {
		now := next.services[name]
		for _, e := range s.endpoints {
			if now.endpoint(e.place) == nil {
				e.pool.close()
			}
		}
		if now == nil {
			r.metrics.forget(name)
		}
	}
}
