package edgesql_test

import (
	"cmp"
	"os"
	"path/filepath"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

// sampleData names the folder of sample data, which may not be there.
func sampleData() string {
	return cmp.Or(os.Getenv("NEARSIDE_DATA"), filepath.Join("..", "..", "..", "..", "shared", "data"))
}

// dataDir returns the folder of sample data, or skips the test.
func dataDir(t *testing.T) string {
	t.Helper()
	dir := sampleData()
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("the sample data is not there (set NEARSIDE_DATA): %v", err)
	}
	return dir
}

// statements calls f with each statement of a file.
func statements(tb testing.TB, path string, f func(sql string)) {
	tb.Helper()
	file, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	scanner := sqlsplit.NewScanner(file, sqlsplit.Options{})
	for scanner.Scan() {
		f(scanner.Statement().Text)
	}
	if err := scanner.Err(); err != nil {
		tb.Fatal(err)
	}
}

// TestChinookReports asks both sides for reports as people write them.
func TestChinookReports(t *testing.T) {
	dir := dataDir(t)
	s := newSides(t)
	s.use("chinook")
	statements(t, filepath.Join(dir, "chinook.sql"), s.mustWrite)
	reports := 0
	statements(t, filepath.Join("testdata", "reports.sql"), func(sql string) {
		reports++
		if got := s.compare(sameOrder, sql); got != datav1.Source_SOURCE_REPLICA {
			t.Errorf("answered by %v: %s", got, sql)
		}
	})
	if reports < 30 {
		t.Errorf("%d reports", reports)
	}
}
