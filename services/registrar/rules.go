package registrar

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/servicedesc"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/engine"
)

const (
	minKept = time.Millisecond
	maxKept = 24 * time.Hour
)

// checkRules returns what is wrong with rules of a service's methods.
func checkRules(d *servicedesc.Service, rules []*controlv1.CacheRule) error {
	seen := make(map[string]bool)
	for i, r := range rules {
		field := func(name string) string { return fmt.Sprintf("cache_rules[%d].%s", i, name) }
		at := slices.IndexFunc(d.Methods, func(m servicedesc.Method) bool { return m.Name == r.GetMethod() })
		if at < 0 {
			return rpcerr.InvalidField(field("method"), "%s has no method %q", d.Name, r.GetMethod())
		}
		switch m := d.Methods[at]; {
		case seen[m.Name]:
			return rpcerr.InvalidField(field("method"), "%s has another rule", m.Name)
		case m.ClientStreaming || m.ServerStreaming:
			return rpcerr.InvalidField(field("method"), "%s streams", m.Name)
		case !m.NoSideEffects:
			return rpcerr.InvalidField(field("method"), "the descriptor of %s does not say idempotency_level = NO_SIDE_EFFECTS", m.Name)
		}
		seen[r.GetMethod()] = true
		if err := r.GetTtl().CheckValid(); err != nil || r.GetTtl().AsDuration() < minKept || r.GetTtl().AsDuration() > maxKept {
			return rpcerr.InvalidField(field("ttl"), "must be from %v to %v", minKept, maxKept)
		}
		if stale := r.GetStale(); stale != nil && (stale.CheckValid() != nil || stale.AsDuration() < 0 || stale.AsDuration() > maxKept) {
			return rpcerr.InvalidField(field("stale"), "must be from 0s to %v", maxKept)
		}
		for j, text := range r.GetKeyFields() {
			if _, err := servicedesc.PathOf(d.Methods[at].Input, text); err != nil {
				return rpcerr.InvalidField(field(fmt.Sprintf("key_fields[%d]", j)), "%v", err)
			}
		}
		for j, table := range r.GetTables() {
			if strings.ContainsRune(table, '\n') {
				return rpcerr.InvalidField(field(fmt.Sprintf("tables[%d]", j)), "has more than one line")
			}
		}
		if len(r.GetTables()) > 0 && r.GetDatabase() == "" {
			return rpcerr.InvalidField(field("database"), "is needed with tables")
		}
	}
	return nil
}

func insertRule(service string, r *controlv1.CacheRule) engine.Operation {
	return engine.SQL("INSERT INTO service_cache_rules (service, method, ttl_ns, stale_ns, key_fields, database, tables) "+
		"VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
		value.Text(service), value.Text(r.GetMethod()), value.Integer(int64(r.GetTtl().AsDuration())),
		value.Integer(int64(r.GetStale().AsDuration())), value.Text(strings.Join(r.GetKeyFields(), "\n")), value.Text(r.GetDatabase()),
		value.Text(strings.Join(r.GetTables(), "\n")))
}

// rules reads the rules of services.
func (s *Service) rules(ctx context.Context, services map[string]*controlv1.RegisteredService) error {
	return s.query(ctx, "SELECT service, method, ttl_ns, stale_ns, key_fields, database, tables FROM service_cache_rules ORDER BY service, method",
		func(v []value.Value) {
			service := services[v[0].Text()]
			if service == nil {
				return
			}
			r := &controlv1.CacheRule{
				Method: v[1].Text(), Ttl: durationpb.New(time.Duration(v[2].Integer())), KeyFields: lines(v[4].Text()),
				Database: v[5].Text(), Tables: lines(v[6].Text()),
			}
			if stale := v[3].Integer(); stale > 0 {
				r.Stale = durationpb.New(time.Duration(stale))
			}
			service.CacheRules = append(service.CacheRules, r)
		})
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
