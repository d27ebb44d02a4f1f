package engine

import (
	"container/list"
	"errors"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

// maxCachedStatements bounds the prepared statements kept by one connection.
const maxCachedStatements = 256

// prepared is a compiled statement of a caller.
type prepared struct {
	*sqlite.Stmt

	footprint footprint
	readOnly  bool
	kept      bool // in session.cached
	bytes     int  // that it counts for in session.bytes: of a caller's
}

// session is a connection with its guard and its compiled statements. One goroutine uses it at a time.
type session struct {
	conn  *sqlite.Conn
	guard guard

	cached map[cacheKey]*list.Element // of cacheEntry
	recent *list.List                 // the most recently used first
	bytes  int                        // that callers' statements of them take
}

// cacheKey keeps the engine's own statements apart from a caller's of the same text.
type cacheKey struct {
	trusted bool
	sql     string
}

type cacheEntry struct {
	key cacheKey
	p   *prepared
}

func newSession(conn *sqlite.Conn, readOnly bool) *session {
	s := &session{conn: conn, cached: make(map[cacheKey]*list.Element), recent: list.New()}
	s.guard.readOnly = readOnly
	s.guard.trusted = true
	conn.SetAuthorizer(s.guard.authorize)
	return s
}

// trusted returns a compiled statement of the engine's own.
func (s *session) trusted(sql string) (*sqlite.Stmt, error) {
	p, err := s.lookup(sql)
	if err != nil {
		return nil, err
	}
	return p.Stmt, nil
}

// lookup returns the compiled statement of a text, which must hold exactly one, under the guard's present trust.
func (s *session) lookup(sql string) (*prepared, error) {
	key := cacheKey{s.guard.trusted, sql}
	if e, ok := s.cached[key]; ok {
		s.recent.MoveToFront(e)
		return e.Value.(cacheEntry).p, nil
	}
	p, tail, err := s.compile(sql)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, sqlrun.NoStatement()
	}
	if !sqlsplit.IsBlank(tail) {
		return nil, errors.Join(p.Finalize(), sqlrun.SeveralStatements())
	}
	if p.footprint.schema {
		return p, nil // runs once
	}
	if !key.trusted {
		if p.bytes = p.StmtStatus(sqlite.StatusMemUsed, false); p.bytes > sqlrun.MaxKeptStatement {
			return p, nil
		}
	}
	p.kept = true
	s.cached[key] = s.recent.PushFront(cacheEntry{key, p})
	s.bytes += p.bytes
	return p, s.forgetOldest(p)
}

// forgetOldest finalizes what was not used for the longest time, until there is no more than may be kept. All but p may go.
func (s *session) forgetOldest(p *prepared) error {
	var errs []error
	for e := s.recent.Back(); e.Value.(cacheEntry).p != p; {
		entry, before := e.Value.(cacheEntry), e.Prev()
		if s.recent.Len() > maxCachedStatements || s.bytes > sqlrun.MaxKeptStatements && entry.p.bytes > 0 {
			s.recent.Remove(e)
			delete(s.cached, entry.key)
			s.bytes -= entry.p.bytes
			errs = append(errs, entry.p.Finalize())
		} else if s.bytes <= sqlrun.MaxKeptStatements {
			break
		}
		e = before
	}
	return errors.Join(errs...)
}

// compile compiles the first statement of a text under the present trust.
func (s *session) compile(sql string) (p *prepared, tail string, err error) {
	s.guard.take()
	stmt, tail, err := s.conn.Prepare(sql)
	noted := s.guard.take()
	if err != nil {
		if noted.denied != "" {
			return nil, "", rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_DENIED, "not allowed: %s", noted.denied).
				With("action", noted.denied)
		}
		if e, ok := errors.AsType[*sqlite.Error](err); ok && e.Code == sqlite.CodeTooBig && len(sql) > sqlrun.MaxStatementBytes {
			return nil, "", rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID,
				"the statement is longer than %d bytes", sqlrun.MaxStatementBytes).
				With("sqlite_code", e.Name()).With("limit", itoa(sqlrun.MaxStatementBytes))
		}
		return nil, "", statementError(err)
	}
	if stmt == nil {
		return nil, tail, nil
	}
	return &prepared{Stmt: stmt, footprint: noted, readOnly: stmt.ReadOnly()}, tail, nil
}

// forgetStatements finalizes all compiled statements.
func (s *session) forgetStatements() {
	for _, e := range s.cached {
		_ = e.Value.(cacheEntry).p.Finalize() // none is running
	}
	clear(s.cached)
	s.recent.Init()
	s.bytes = 0
}

// release ends a statement's run and lets go of what it was bound to; statements that are not kept are finalized.
func (*session) release(p *prepared) error {
	if !p.kept {
		return p.Finalize()
	}
	err := p.Reset()
	p.ClearBindings()
	return err
}

func (s *session) close() error {
	return s.conn.Close() // finalizes what is left
}
