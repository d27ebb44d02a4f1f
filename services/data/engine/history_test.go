package engine

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// TestRandomHistories runs random schema and data changes and then rebuilds the file from the log alone. Failing statements
// are part of the game: they must leave nothing.
func TestRandomHistories(t *testing.T) {
	seeds := 40
	if testing.Short() {
		seeds = 3
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			f := newFixture(t)
			h := &history{r: rand.New(rand.NewPCG(uint64(seed), 7))}
			done := 0
			for range 150 {
				sql := h.next()
				if _, err := f.try(sql); err == nil {
					done++
				} else if _, ok := rpcerr.FromError(err); !ok {
					t.Fatalf("%s: %v", sql, err) // not a refusal: the engine failed
				}
				h.ran = append(h.ran, sql)
			}
			if done < 25 {
				t.Errorf("only %d statements worked", done)
			}
			before := f.dump()
			f.removeFile()
			if diff := cmp.Diff(before, f.dump()); diff != "" {
				t.Errorf("file differs from what the log rebuilds (-file +log):\n%s\nhistory:\n%s", diff, strings.Join(h.ran, ";\n"))
			}
		})
	}
}

// history makes statements over a few names, so that they meet each other.
type history struct {
	r   *rand.Rand
	ran []string
}

func (h *history) pick(choices ...string) string { return choices[h.r.IntN(len(choices))] }

func (h *history) table() string { return h.pick("a", "b", "c") }

func (h *history) column() string { return h.pick("x", "y", "z", "w") }

func (h *history) value() string {
	return h.pick("1", "2", "2.5", "'text'", "'TEXT'", "NULL", "x'00ff'", "9007199254740993", "-1e300", "'it''s'", "''",
		fmt.Sprint(h.r.IntN(20)))
}

func (h *history) next() string {
	t, c := h.table(), h.column()
	switch h.r.IntN(24) {
	case 0:
		return fmt.Sprintf("CREATE TABLE %s (id INTEGER PRIMARY KEY%s, x, y TEXT UNIQUE)", t, h.pick("", " AUTOINCREMENT"))
	case 1:
		return fmt.Sprintf("CREATE TABLE %s (x TEXT NOT NULL COLLATE NOCASE, y INT, z REAL DEFAULT 1.5, PRIMARY KEY (x, y)) WITHOUT ROWID", t)
	case 2:
		return fmt.Sprintf("CREATE TABLE %s (x NOT NULL PRIMARY KEY, y, g AS (y || 'g')%s)", t, h.pick("", " STORED"))
	case 3:
		return fmt.Sprintf("CREATE TABLE %s AS SELECT * FROM %s", t, h.table())
	case 4:
		return fmt.Sprintf("DROP TABLE %s", t)
	case 5:
		return fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s DEFAULT %s", t, c, h.pick("", "TEXT", "INT", "REAL"), h.value())
	case 6:
		return fmt.Sprintf("ALTER TABLE %s RENAME COLUMN %s TO %s", t, c, h.column())
	case 7:
		return fmt.Sprintf("ALTER TABLE %s RENAME TO %s", t, h.table())
	case 8:
		return fmt.Sprintf("ALTER TABLE %s DROP COLUMN %s", t, c)
	case 9:
		return fmt.Sprintf("CREATE %sINDEX i%d ON %s (%s%s)", h.pick("", "UNIQUE "), h.r.IntN(3), t, c, h.pick("", " DESC"))
	case 10:
		return fmt.Sprintf("DROP INDEX i%d", h.r.IntN(3))
	case 11:
		return fmt.Sprintf("CREATE TRIGGER tr AFTER INSERT ON %s BEGIN INSERT OR IGNORE INTO %s (x) VALUES (new.x); END", t, h.table())
	case 12:
		return "DROP TRIGGER tr"
	case 13:
		return fmt.Sprintf("CREATE VIEW v AS SELECT * FROM %s", t)
	case 14:
		return "DROP VIEW v"
	case 15:
		return fmt.Sprintf("DELETE FROM %s WHERE %s IS %s", t, c, h.value())
	case 16:
		return fmt.Sprintf("UPDATE OR %s %s SET %s = %s WHERE %s = %s", h.pick("ABORT", "REPLACE", "IGNORE", "ROLLBACK"), t, c, h.value(), h.column(), h.value())
	case 17:
		return fmt.Sprintf("UPDATE %s SET rowid = rowid + 100", t)
	default:
		return fmt.Sprintf("INSERT OR %s INTO %s (x, y) VALUES (%s, %s), (%s, %s)",
			h.pick("ABORT", "REPLACE", "IGNORE", "FAIL"), t, h.value(), h.value(), h.value(), h.value())
	}
}
