package main

import (
	"strings"
	"testing"
)

type benchAnswer struct {
	Protocol string
	Missed   uint64
	Sources  map[string]uint64
	Load     []struct {
		Kind                 string
		Requests, Errors     uint64
		RequestsPerSecond    float64
		P50Ms, P99Ms, P999Ms float64
		MaxMs, P90Ms, P95Ms  float64
	}
}

func TestBench(t *testing.T) {
	s := shell{t: t, url: startPrimary(t)}
	for _, args := range []string{
		"--protocol connect", "--protocol grpc --distribution zipf", "--protocol json --rate 200",
	} {
		args := "bench --json --keys 1500 --connections 4 --duration 300ms --mix get=60,batch=10,list=10,query=10,write=10 " + args
		got := decode[benchAnswer](t, s.must(strings.Fields(args)...))
		if len(got.Load) == 0 || got.Load[0].Kind != "all" {
			t.Fatalf("%s: %+v", args, got)
		}
		all, sum := got.Load[0], uint64(0)
		for _, l := range got.Load[1:] {
			sum += l.Requests
		}
		if all.Errors != 0 || all.Requests == 0 || sum != all.Requests || all.P50Ms <= 0 || all.MaxMs < all.P50Ms || all.Requests > 50 && got.Sources["PRIMARY"] == 0 {
			t.Errorf("%s: %+v", args, got)
		}
	}
	if got := s.rows("bench", "SELECT count(*) FROM bench_rows"); got != "[[1500]]" {
		t.Errorf("there are %s rows", got)
	}
	if out := s.must("bench", "--keys", "100", "--duration", "50ms", "--connections", "2"); !strings.Contains(out, "p99.9 ms") || !strings.Contains(out, "(connect over 2 connections, ") {
		t.Errorf("table:\n%s", out)
	}
}
