package cli

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
)

// cacheRuleOf reads METHOD,ttl=10s[,stale=1m][,key=FIELD…][,table=DATABASE/TABLE…].
func cacheRuleOf(text string) (*controlv1.CacheRule, error) {
	parts := strings.Split(text, ",")
	r := &controlv1.CacheRule{Method: parts[0]}
	for _, part := range parts[1:] {
		name, v, ok := strings.Cut(part, "=")
		if !ok || v == "" {
			return nil, usagef("--cache %s: %q is not NAME=VALUE", text, part)
		}
		switch name {
		case "ttl", "stale":
			d, err := time.ParseDuration(v)
			if err != nil {
				return nil, usagef("--cache %s: %s: want a duration such as 10s", text, name)
			}
			if name == "ttl" {
				r.Ttl = durationpb.New(d)
			} else {
				r.Stale = durationpb.New(d)
			}
		case "key":
			r.KeyFields = append(r.KeyFields, v)
		case "table":
			database, table, ok := strings.Cut(v, "/")
			if !ok || database == "" || table == "" || r.GetDatabase() != "" && r.GetDatabase() != database {
				return nil, usagef("--cache %s: want table=DATABASE/TABLE, all of one database", text)
			}
			r.Database, r.Tables = database, append(r.Tables, table)
		default:
			return nil, usagef("--cache %s: there is no %q: ttl, stale, key and table are", text, name)
		}
	}
	if r.GetTtl() == nil {
		return nil, usagef("--cache %s: want ttl=DURATION", text)
	}
	return r, nil
}

// cacheRuleJSON is a rule as programs read it.
type cacheRuleJSON struct {
	Method    string   `json:"method"`
	TTLMs     int64    `json:"ttlMs"`
	StaleMs   int64    `json:"staleMs"`
	KeyFields []string `json:"keyFields"` // empty is all of the request
	Database  string   `json:"database,omitempty"`
	Tables    []string `json:"tables"`
}

func cacheRulesJSON(rules []*controlv1.CacheRule) []cacheRuleJSON {
	out := make([]cacheRuleJSON, len(rules))
	for i, r := range rules {
		out[i] = cacheRuleJSON{
			Method: r.GetMethod(), TTLMs: r.GetTtl().AsDuration().Milliseconds(), StaleMs: r.GetStale().AsDuration().Milliseconds(),
			KeyFields: append([]string{}, r.GetKeyFields()...), Database: r.GetDatabase(), Tables: append([]string{}, r.GetTables()...),
		}
	}
	return out
}
