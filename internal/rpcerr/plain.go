package rpcerr

import (
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
)

// plain reports whether a request certainly breaks none of its rules. The validator costs more than many of the calls that it
// looks at, and nearly all requests are plain: only the others are put before it, and it alone says what is wrong. So what
// stands here may be stricter than the rules, never laxer; a test compares the two.
func plain(msg any) bool {
	switch m := msg.(type) {
	case *datav1.GetRequest:
		return named(m.Database) && named(m.Table) && plainKey(m.Key) && plainConsistency(m.Consistency)
	case *datav1.BatchGetRequest:
		if !named(m.Database) || !named(m.Table) || len(m.Keys) == 0 || len(m.Keys) > 1000 || !plainConsistency(m.Consistency) {
			return false
		}
		for _, k := range m.Keys {
			if !plainKey(k) {
				return false
			}
		}
		return true
	case *datav1.ListRequest:
		return named(m.Database) && named(m.Table) && len(m.Index) <= 256 && len(m.Prefix) <= 64 && plainBound(m.Start) &&
			plainBound(m.End) && m.PageSize <= 10_000 && len(m.PageToken) <= 16384 && plainConsistency(m.Consistency)
	case *datav1.QueryRequest:
		return named(m.Database) && plainStatement(m.Statement) && plainConsistency(m.Consistency)
	case *datav1.ExecuteRequest:
		return named(m.Database) && plainStatement(m.Statement) && len(m.IdempotencyKey) <= 255 && plainConsistency(m.Consistency)
	case *datav1.TransactRequest:
		if !named(m.Database) || len(m.Operations) == 0 || len(m.Operations) > 100_000 || len(m.IdempotencyKey) > 255 {
			return false
		}
		for _, o := range m.Operations {
			if !plainOperation(o) {
				return false
			}
		}
		return true
	case *replicationv1.SubscribeRequest:
		return m.GetPing() != nil // all that an idle stream has, ten times a second
	default:
		return false
	}
}

// named is for names of databases, whose limit is the lowest.
func named(s string) bool { return s != "" && len(s) <= 63 }

func plainConsistency(c *datav1.Consistency) bool {
	return c == nil || c.Level >= 0 && c.Level <= datav1.Consistency_LEVEL_PRIMARY && len(c.Bookmark) <= 256 &&
		c.MaxStaleness == nil && c.MaxWait == nil
}

func plainKey(k *datav1.Key) bool {
	return k != nil && len(k.Values) > 0 && len(k.Values) <= 64 && len(k.Index) <= 256
}

func plainBound(b *datav1.ListRequest_Bound) bool {
	return b == nil || len(b.Values) > 0 && len(b.Values) <= 64
}

func plainStatement(s *datav1.Statement) bool {
	return s != nil && s.Sql != "" && len(s.Sql) <= 1<<20 && len(s.Parameters) <= 32766 && len(s.NamedParameters) <= 32766
}

func plainOperation(o *datav1.Operation) bool {
	switch o := o.GetOperation().(type) {
	case *datav1.Operation_Statement:
		return plainStatement(o.Statement)
	case *datav1.Operation_Put:
		return o.Put != nil && named(o.Put.Table) && len(o.Put.Values) <= 2000 && o.Put.Precondition == nil
	case *datav1.Operation_Update:
		u := o.Update
		return u != nil && named(u.Table) && plainKey(u.Key) && len(u.Set) > 0 && len(u.Set) <= 2000 && u.Precondition == nil
	case *datav1.Operation_Delete:
		return o.Delete != nil && named(o.Delete.Table) && plainKey(o.Delete.Key) && o.Delete.Precondition == nil
	default:
		return false
	}
}
