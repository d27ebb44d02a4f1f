package mesh

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// taken is an endpoint that a call has, to be given back with its verdict.
type taken struct {
	*endpoint

	done func(err error)
}

// take takes an endpoint of a service that was not tried; ok is false where none is usable. One that is suspected is taken where there
// is no other; for a call that has tried before, as far as the budget for that goes.
func (r *Router) take(s *service, tried []*endpoint) (t taken, ok bool) {
	if t, ok = r.takeBut(s, tried, true); ok || !slices.ContainsFunc(s.endpoints, isSuspected) {
		return t, ok
	}
	if len(tried) > 0 && !r.retries.spend(time.Now()) {
		return taken{}, false
	}
	return r.takeBut(s, tried, false)
}

func isSuspected(e *endpoint) bool { return e.suspected.Load() != 0 }

// takeBut is take of all endpoints, or of all but those that are suspected.
func (r *Router) takeBut(s *service, tried []*endpoint, butSuspected bool) (t taken, ok bool) {
	if t, ok = takeOf(s.endpoints[:s.near], tried, butSuspected); ok || s.near == len(s.endpoints) {
		return t, ok
	}
	far := slices.Clone(s.endpoints[s.near:])
	nearest := make(map[string]int64)
	for _, e := range far {
		rtt := e.rtt.Load()
		if rtt == 0 {
			rtt = math.MaxInt64
		}
		if was, ok := nearest[e.region]; !ok || rtt < was {
			nearest[e.region] = rtt
		}
	}
	// Of regions that nothing is known of each is the first one at times.
	turn := int(r.turn.Add(1))
	regions := make([]string, 0, len(nearest))
	for region := range nearest {
		regions = append(regions, region)
	}
	slices.Sort(regions)
	regions = append(regions[turn%len(regions):], regions[:turn%len(regions)]...)
	slices.SortStableFunc(regions, func(a, b string) int {
		switch {
		case nearest[a] < nearest[b]:
			return -1
		case nearest[a] > nearest[b]:
			return 1
		default:
			return 0
		}
	})
	for _, region := range regions {
		in := slices.DeleteFunc(slices.Clone(far), func(e *endpoint) bool { return e.region != region })
		if t, ok = takeOf(in, tried, butSuspected); ok {
			return t, true
		}
	}
	return taken{}, false
}

// takeOf takes, of two endpoints at random, the one that costs less; where neither is usable, any that is.
func takeOf(endpoints, tried []*endpoint, butSuspected bool) (t taken, ok bool) {
	n := len(endpoints)
	if n == 0 {
		return taken{}, false
	}
	first := 0
	if n > 1 {
		first = rand.IntN(n)
		second := (first + 1 + rand.IntN(n-1)) % n
		if endpoints[second].cost() < endpoints[first].cost() {
			first, second = second, first
		}
		if t, ok = tryTake(endpoints[first], tried, butSuspected); ok {
			return t, true
		}
		if t, ok = tryTake(endpoints[second], tried, butSuspected); ok {
			return t, true
		}
	}
	for i := range n {
		if t, ok = tryTake(endpoints[(first+i)%n], tried, butSuspected); ok {
			return t, true
		}
	}
	return taken{}, false
}

func tryTake(e *endpoint, tried []*endpoint, butSuspected bool) (taken, bool) {
	if butSuspected && isSuspected(e) || !e.usable() || slices.Contains(tried, e) {
		return taken{}, false
	}
	done, err := e.breaker.Allow()
	if err != nil {
		return taken{}, false
	}
	e.inFlight.Add(1)
	return taken{endpoint: e, done: done}, true
}

// give gives an endpoint back. err says how it failed; nil is that it answered, errNotCounted that nobody knows.
func (t taken) give(err error) {
	t.inFlight.Add(-1)
	t.done(err)
}
