package memory

import (
	"strconv"
	"testing"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// TestEvict evicts one of two databases: nothing of it is left, also of what is kept afterwards of a reading from before, and of what
// the order has forgotten.
func TestEvict(t *testing.T) {
	for _, forgotten := range []bool{false, true} {
		stamps := stamp.NewTable()
		c, err := New(Options{Bytes: 4 << 20, DatabasePercent: 50, Stamps: stamps})
		if err != nil {
			t.Fatal(err)
		}
		last := stamps.Last()
		reading := stamp.Reading{At: last, Until: last}
		set := func(database uint32, key string) bool {
			return c.SetValue(reading, database, NewValue{Key: key, Bytes: []byte("value of " + key), TTL: time.Hour})
		}
		columns := []*datav1.Column{{Name: "a"}}
		for i := range 100 {
			key := strconv.Itoa(i)
			if !set(7, key) {
				t.Fatal("not kept")
			}
			c.KeepRow(reading, stamps.Row(7, 1, []byte(key)), 7, "t", []byte(key), columns, &datav1.Row{})
		}
		if !forgotten && !set(8, "other") {
			t.Fatal("not kept")
		}
		c.Wait()
		if c.DatabaseBytes(7) == 0 {
			t.Fatal("nothing is kept")
		}
		if forgotten {
			c.usage(7).order = c.usage(7).order[50:]
		}
		c.Evict(7)
		set(7, "late")
		c.KeepRow(reading, stamps.Row(7, 1, []byte("late")), 7, "t", []byte("late"), columns, &datav1.Row{})
		c.Wait()
		if n := c.DatabaseBytes(7); n != 0 {
			t.Errorf("forgotten %v: %d bytes are left", forgotten, n)
		}
		if !forgotten {
			if _, ok := c.Value(last, 8, "other"); !ok {
				t.Error("the other database has lost its value")
			}
		}
		c.Evict(99)
		c.Close()
	}
	(*Cache)(nil).Evict(7)
}
