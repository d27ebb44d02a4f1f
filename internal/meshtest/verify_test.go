package meshtest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/cockroachdb/pebble/v2"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/verify"
)

func verifyAt(ctx context.Context, t *testing.T, m *meshtest.Mesh, url string, req *controlv1.VerifyRequest) []*controlv1.VerifyResult {
	t.Helper()
	res, err := controlv1connect.NewVerifyServiceClient(m.HTTP(), url).Verify(ctx, connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.GetResults()
}

// kinds writes findings as "kind table index keys", sorted.
func kinds(r *controlv1.VerifyResult) []string {
	var list []string
	for _, f := range r.GetFindings() {
		parts := []string{verify.KindName(f.GetKind()), f.GetTable(), f.GetIndex(), strings.Join(f.GetKeys(), ";")}
		list = append(list, strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " | "))
	}
	slices.Sort(list)
	return list
}

// TestVerifyUnderWriters verifies again and again while rows, keys, indexes and columns change in all regions: there is no
// difference, so none may be found.
func TestVerifyUnderWriters(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	m.Create("d")
	m.Exec("", "d", "CREATE TABLE a (id INTEGER PRIMARY KEY, v TEXT, n REAL)")
	m.Exec("", "d", "CREATE INDEX a_v ON a (v COLLATE NOCASE DESC, n)")
	m.Exec("", "d", "CREATE TABLE b (k TEXT NOT NULL COLLATE NOCASE, l BLOB NOT NULL, x, PRIMARY KEY (k DESC, l)) WITHOUT ROWID")
	m.Exec("", "d", "CREATE TABLE c (x, y)")
	m.Exec("", "d", "INSERT INTO a WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 2000) SELECT i, 'v' || i, i / 3.0 FROM s")
	m.WaitSync("d")
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range 6 {
		writers.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(w)))
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				sql := randomWrite(random)
				if w == 0 && n%40 == 39 {
					sql = fmt.Sprintf("ALTER TABLE c ADD COLUMN z%d DEFAULT %d", n, n)
				}
				if w == 1 && n%40 == 39 {
					sql = fmt.Sprintf("CREATE INDEX a_i%d ON a (n, v)", n)
				}
				_, err := m.Client([]string{east, west}[w%2]).Execute(context.Background(), connect.NewRequest(&datav1.ExecuteRequest{
					Database: "d", Statement: &datav1.Statement{Sql: sql},
				}))
				if err != nil {
					t.Errorf("%s: %v", sql, err)
					return
				}
			}
		})
	}
	versions := map[uint64]bool{}
	const wanted = 12
	for round := 0; round < wanted || len(versions) < wanted && round < 50*wanted; round++ {
		url := m.URL([]string{east, west}[round%2])
		for _, r := range verifyAt(t.Context(), t, m, url, &controlv1.VerifyRequest{Deep: round%3 != 0}) {
			if r.GetError() != "" || len(r.GetFindings()) > 0 || r.GetRepair() {
				t.Errorf("round %d: %v", round, r)
			}
			if r.GetDatabase() == "d" {
				versions[r.GetVersion()] = true
			}
		}
	}
	close(stop)
	writers.Wait()
	if len(versions) < wanted {
		t.Errorf("only %d versions were compared: the writers stood still", len(versions))
	}
}

func randomWrite(r *rand.Rand) string {
	id := r.IntN(3000)
	switch r.IntN(8) {
	case 0:
		return fmt.Sprintf("DELETE FROM a WHERE id = %d", id)
	case 1:
		return fmt.Sprintf("UPDATE a SET v = 'W' || %d, n = -0.0 WHERE id BETWEEN %d AND %d", r.IntN(100), id, id+20)
	case 2:
		return fmt.Sprintf("INSERT OR REPLACE INTO b VALUES ('Key%d', x'%04x', %d)", r.IntN(50), r.IntN(300), id)
	case 3:
		return fmt.Sprintf("DELETE FROM b WHERE k = 'kEY%d'", r.IntN(50))
	case 4:
		return fmt.Sprintf("INSERT INTO c (x, y) VALUES (%d, 1e300 * %d)", id, id)
	case 5:
		return fmt.Sprintf("UPDATE a SET id = id + 100000 WHERE id = %d AND NOT EXISTS (SELECT 1 FROM a WHERE id = %d)", id, id+100000)
	default:
		return fmt.Sprintf("INSERT OR REPLACE INTO a VALUES (%d, 'x%d', %d)", id, r.IntN(1000), r.IntN(10))
	}
}

func TestVerifyUnknown(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	client := controlv1connect.NewVerifyServiceClient(m.HTTP(), m.URL(west))
	for _, tc := range []struct {
		req    *controlv1.VerifyRequest
		reason datav1.ErrorReason
	}{
		{&controlv1.VerifyRequest{Database: "none"}, datav1.ErrorReason_ERROR_REASON_DATABASE_NOT_FOUND},
		{&controlv1.VerifyRequest{Regions: []string{"none"}}, datav1.ErrorReason_ERROR_REASON_FIELD_INVALID},
	} {
		_, err := client.Verify(context.Background(), connect.NewRequest(tc.req))
		if got := rpcerr.ReasonOf(err); got != tc.reason {
			t.Errorf("%v: %v, want %v", tc.req, err, tc.reason)
		}
	}
}

// damage is a bit that is flipped in a region's store, and what is to be found.
type damage struct {
	name  string
	deep  bool
	flip  func(t *testing.T, db *pebble.DB, id uint32)
	wants []string
}

var damages = []damage{
	{
		name: "row value", deep: true,
		flip: func(t *testing.T, db *pebble.DB, id uint32) {
			t.Helper()
			key, value := find(t, db, dataPrefix(t, db, id, false), []byte("k050"))
			value[len(value)-1] ^= 1
			set(t, db, key, key, value)
		},
		wants: []string{"row different | t | 'k050'", "stored sum | t", "sum | t"},
	},
	{
		name: "row value, by sums",
		flip: func(t *testing.T, db *pebble.DB, id uint32) {
			t.Helper()
			key, value := find(t, db, dataPrefix(t, db, id, false), []byte("k050"))
			value[len(value)-1] ^= 1
			set(t, db, key, key, value)
		},
		wants: []string{"stored sum | t", "sum | t"},
	},
	{
		name: "row version", deep: true,
		flip: func(t *testing.T, db *pebble.DB, id uint32) {
			t.Helper()
			key, value := find(t, db, dataPrefix(t, db, id, false), []byte("k050"))
			value[0] ^= 1
			set(t, db, key, key, value)
		},
		wants: []string{"row version | t | 'k050'"},
	},
	{
		name: "row key", deep: true,
		flip: func(t *testing.T, db *pebble.DB, id uint32) {
			t.Helper()
			key, value := find(t, db, dataPrefix(t, db, id, false), []byte("k050"))
			other := bytes.Clone(key)
			other[bytes.Index(other, []byte("k050"))+1] ^= 1 // k150, which is no row's
			set(t, db, key, other, value)
		},
		wants: []string{
			"entry extra | t | t_n | 50, 'k050'", "entry missing | t | t_n | 50, 'k150'",
			"row extra | t | 'k150'", "row missing | t | 'k050'", "stored sum | t", "sum | t",
		},
	},
	{
		name: "row gone", deep: true,
		flip: func(t *testing.T, db *pebble.DB, id uint32) {
			t.Helper()
			key, _ := find(t, db, dataPrefix(t, db, id, false), []byte("k099"))
			if err := db.Delete(key, pebble.Sync); err != nil {
				t.Fatal(err)
			}
		},
		wants: []string{
			"entry extra | t | t_n | 99, 'k099'", "row count | t", "row missing | t | 'k099'", "stored sum | t", "sum | t",
		},
	},
	{
		name: "index entry", deep: true,
		flip: func(t *testing.T, db *pebble.DB, id uint32) {
			t.Helper()
			key, value := find(t, db, dataPrefix(t, db, id, true), []byte("k050"))
			other := bytes.Clone(key)
			other[bytes.Index(other, []byte("k050"))+3] ^= 1 // of row k051
			set(t, db, key, other, value)
		},
		wants: []string{"entry extra | t | t_n | 50, 'k051'", "entry missing | t | t_n | 50, 'k050'"},
	},
	{
		name: "stored sum",
		flip: func(t *testing.T, db *pebble.DB, id uint32) {
			t.Helper()
			prefix := append(binary.BigEndian.AppendUint32(nil, id), 't')
			key, value := find(t, db, prefix, nil)
			value[3] ^= 0x10
			set(t, db, key, key, value)
		},
		wants: []string{"stored sum | t"},
	},
	{
		name: "record of the tail", deep: true,
		flip: func(t *testing.T, db *pebble.DB, id uint32) {
			t.Helper()
			key, value := findValue(t, db, append(binary.BigEndian.AppendUint32(nil, id), 'l'), []byte("touched"))
			value[bytes.Index(value, []byte("touched"))] ^= 4
			set(t, db, key, key, value)
		},
		wants: []string{"log"},
	},
}

// TestVerifyFindsDamageOfARegion flips bits in a region's store and verifies: each is found and named, and the table or the
// log's tail is repaired. The other table stays where it is: the copy as a whole is not made anew.
func TestVerifyFindsDamageOfARegion(t *testing.T) {
	m := damagedMesh(t)
	m.Exec("", "d", "CREATE TABLE other AS SELECT 1 AS x")
	id := databaseID(t, m)
	var other []byte
	for i, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			// A copy that was repaired began with a snapshot and has no records of before.
			m.Exec("", "d", fmt.Sprintf("UPDATE t SET v = 'touched %d' WHERE k = 'last'", i))
			m.WaitSync("d")
			m.StopSidecar(west)
			db := openStore(t, filepath.Join(m.RegionDir(west), "replica"))
			d.flip(t, db, id)
			if now := lastTable(t, db, id); i == 0 {
				other = now
			} else if !bytes.Equal(now, other) {
				t.Errorf("the other table is at %x, was at %x", now, other)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			m.StartSidecar(west)
			m.WaitSync("d")
			req := &controlv1.VerifyRequest{Database: "d", Regions: []string{west}, Deep: d.deep}
			results := verifyAt(t.Context(), t, m, m.URL(east), req)
			if len(results) != 2 || len(results[0].GetFindings()) > 0 || results[1].GetRegion() != west {
				t.Fatalf("results: %v", results)
			}
			if r := results[1]; !slices.Equal(kinds(r), d.wants) || !r.GetRepair() || r.GetError() != "" {
				t.Errorf("found %q, repair %v, want %q: %v", kinds(r), r.GetRepair(), d.wants, r)
			}
			m.Eventually("repair", func(ctx context.Context) error {
				r := verifyAt(ctx, t, m, m.URL(west), &controlv1.VerifyRequest{Database: "d", LocalOnly: true, Deep: true})[0]
				if r.GetError() != "" || len(r.GetFindings()) > 0 {
					return fmt.Errorf("%v", r)
				}
				return nil
			})
			m.CompareAll("d")
		})
	}
}

// TestVerifyFindsDamageOfThePrimary changes a row of the primary's file behind its back, and then a record of its log.
func TestVerifyFindsDamageOfThePrimary(t *testing.T) {
	m := damagedMesh(t)
	id := databaseID(t, m)
	file := filepath.Join(m.PrimaryDir(), "db", strconv.Itoa(int(id))+".sqlite")
	rawSQL(t, file, "UPDATE t SET v = 'w' || substr(v, 2) WHERE k = 'k050'")
	results := verifyAt(t.Context(), t, m, m.URL(east), &controlv1.VerifyRequest{Database: "d", Deep: true})
	if len(results) != 3 {
		t.Fatalf("results: %v", results)
	}
	if got := kinds(results[0]); !results[0].GetPrimary() || !slices.Equal(got, []string{"primary sum | t"}) {
		t.Errorf("primary: %v", results[0])
	}
	for _, r := range results[1:] {
		if got := kinds(r); !slices.Equal(got, []string{"row different | t | 'k050'"}) || r.GetRepair() {
			t.Errorf("region: %v", r) // the row is named, and the copy is not to blame
		}
	}
	rawSQL(t, file, "UPDATE t SET v = 'v' || substr(v, 2) WHERE k = 'k050'")

	m.StopPrimary()
	db := openStore(t, filepath.Join(m.PrimaryDir(), "log"))
	key, value := find(t, db, binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32([]byte{'r'}, id), 3), nil)
	value[bytes.Index(value, []byte("k050"))] ^= 4
	set(t, db, key, key, value)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	m.StartPrimary()
	m.WaitSync("d")
	for _, r := range verifyAt(t.Context(), t, m, m.PrimaryURL(), &controlv1.VerifyRequest{Database: "d", Deep: true, LocalOnly: true}) {
		if got := kinds(r); !slices.Equal(got, []string{"log"}) || !strings.Contains(r.GetFindings()[0].GetDetail(), "record 3") {
			t.Errorf("primary: %v", r)
		}
	}
}

func damagedMesh(t *testing.T) *meshtest.Mesh {
	t.Helper()
	m := meshtest.Start(t, meshtest.Options{})
	m.Create("d")
	m.Exec("", "d", "CREATE TABLE t (k TEXT NOT NULL PRIMARY KEY, n INTEGER, v TEXT)")
	m.Exec("", "d", "CREATE INDEX t_n ON t (n)")
	m.Exec("", "d", "INSERT INTO t WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 99) "+
		"SELECT printf('k%03d', i), i, 'v' || i FROM s")
	m.Exec("", "d", "INSERT INTO t VALUES ('last', NULL, NULL)")
	m.WaitSync("d")
	return m
}

func databaseID(t *testing.T, m *meshtest.Mesh) uint32 {
	t.Helper()
	res, err := m.Client("").GetDatabase(context.Background(), connect.NewRequest(&datav1.GetDatabaseRequest{Name: "d"}))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.GetDatabase().GetId()
}

func openStore(t *testing.T, dir string) *pebble.DB {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{
		FormatMajorVersion: pebble.FormatNewest, Logger: quietLogger{}, ErrorIfNotExists: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

type quietLogger struct{}

func (quietLogger) Infof(string, ...any)  {}
func (quietLogger) Errorf(string, ...any) {}
func (quietLogger) Fatalf(format string, args ...any) {
	slog.Error(fmt.Sprintf(format, args...))
}

// prefixSize is the size of what the keys of rows and entries begin with: the database, the space, the generation, the table
// and the index, which is 0 for rows.
const prefixSize = 4 + 1 + 4 + 4 + 4

// dataPrefix is what the keys of the first table's rows, or of its only index's entries, begin with.
func dataPrefix(t *testing.T, db *pebble.DB, id uint32, index bool) []byte {
	t.Helper()
	all := dataPrefixes(t, db, id)
	first := slices.MinFunc(all, func(a, b []byte) int { return bytes.Compare(a[9:13], b[9:13]) })
	for _, p := range all {
		if isIndex := binary.BigEndian.Uint32(p[prefixSize-4:]) != 0; isIndex == index && bytes.Equal(p[9:13], first[9:13]) {
			return p
		}
	}
	t.Fatal("no rows or entries")
	return nil
}

// lastTable is what the keys of the last table's rows begin with.
func lastTable(t *testing.T, db *pebble.DB, id uint32) []byte {
	t.Helper()
	return slices.MaxFunc(dataPrefixes(t, db, id), func(a, b []byte) int { return bytes.Compare(a[9:13], b[9:13]) })
}

// dataPrefixes is what the keys of all tables' rows and entries begin with.
func dataPrefixes(t *testing.T, db *pebble.DB, id uint32) (all [][]byte) {
	t.Helper()
	iter, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := iter.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	space := append(binary.BigEndian.AppendUint32(nil, id), 'g')
	for ok := iter.SeekGE(space); ok && bytes.HasPrefix(iter.Key(), space); ok = iter.Next() {
		if n := len(all); n == 0 || !bytes.HasPrefix(iter.Key(), all[n-1]) {
			all = append(all, bytes.Clone(iter.Key()[:prefixSize]))
		}
	}
	return all
}

func rawSQL(t *testing.T, path, sql string) {
	t.Helper()
	conn, err := sqlite.Open(path, sqlite.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(conn.Exec(sql), conn.Close()); err != nil {
		t.Fatal(err)
	}
}

// find returns the first key that begins with prefix and holds part, and its value.
func find(t *testing.T, db *pebble.DB, prefix, part []byte) (key, value []byte) {
	t.Helper()
	return findIn(t, db, prefix, func(key, _ []byte) bool { return bytes.Contains(key, part) })
}

// findValue finds the first entry below a prefix whose value holds a text.
func findValue(t *testing.T, db *pebble.DB, prefix, part []byte) (key, value []byte) {
	t.Helper()
	return findIn(t, db, prefix, func(_, value []byte) bool { return bytes.Contains(value, part) })
}

func findIn(t *testing.T, db *pebble.DB, prefix []byte, wanted func(key, value []byte) bool) (key, value []byte) {
	t.Helper()
	iter, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := iter.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	for ok := iter.SeekGE(prefix); ok && bytes.HasPrefix(iter.Key(), prefix); ok = iter.Next() {
		if wanted(iter.Key(), iter.Value()) {
			return bytes.Clone(iter.Key()), bytes.Clone(iter.Value())
		}
	}
	t.Fatalf("no such entry below %x", prefix)
	return nil, nil
}

func set(t *testing.T, db *pebble.DB, old, key, value []byte) {
	t.Helper()
	b := db.NewBatch()
	defer func() { _ = b.Close() }() // gives memory back
	if err := b.Delete(old, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Set(key, value, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(pebble.Sync); err != nil {
		t.Fatal(err)
	}
}
