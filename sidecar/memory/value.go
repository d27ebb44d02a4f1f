package memory

import (
	"hash/maphash"
	"time"

	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// NoDatabase is the database of values that belong to none.
const NoDatabase uint32 = 0

// Value is a value of an application's own. Its bytes are shared: nobody changes them.
type Value struct {
	Bytes   []byte
	Expires time.Time // zero for never
}

// NewValue is a value to keep.
type NewValue struct {
	Key   string
	Bytes []byte // the cache's from now on
	TTL   time.Duration
	// Tags are names under which it can be invalidated, Tables the ids of tables whose changes invalidate it.
	Tags   []string
	Tables []uint32
}

// What names the slots of values among those of rows: no table has id 0.
const (
	slotKey = "k"
	slotTag = "t"
)

func (c *Cache) valueSlot(database uint32, kind, name string) stamp.Slot {
	return c.stamps.Row(database, 0, append([]byte(kind), name...))
}

func valueKey(database uint32, key string) []byte {
	return append(appendKey(nil, KindValue, database), key...)
}

// Value returns the value of a key, if there is one that holds at now.
func (c *Cache) Value(now stamp.Stamp, database uint32, key string) (v Value, ok bool) {
	if c == nil {
		return v, false
	}
	e := c.find(KindValue, valueKey(database, key), now)
	if e == nil {
		return v, false
	}
	return Value{Bytes: e.data, Expires: e.expires}, true
}

// SetValue keeps a value that was made of what was read of the database at reading, and reports whether the cache took it in.
// What was under the key before is to be forgotten before reading is taken (ForgetValue).
func (c *Cache) SetValue(reading stamp.Reading, database uint32, v NewValue) bool {
	if c == nil || reading.Until == 0 {
		return false
	}
	e := &entry{
		key: string(valueKey(database, v.Key)), reading: reading, slots: [1]stamp.Slot{c.valueSlot(database, slotKey, v.Key)},
		kind: KindValue, database: database, payload: payload{data: v.Bytes},
	}
	for _, tag := range v.Tags {
		e.more = append(e.more, c.valueSlot(database, slotTag, tag))
	}
	for _, table := range v.Tables {
		e.more = append(e.more, c.stamps.Whole(database, table))
	}
	if v.TTL > 0 {
		e.expires = time.Now().Add(v.TTL)
	}
	if !c.keep(e, v.TTL) {
		return false
	}
	c.entries.Wait()
	kept, _ := c.entries.Get(maphash.String(c.seed, e.key))
	return kept == e
}

// ForgetValue invalidates the value of a key.
func (c *Cache) ForgetValue(database uint32, key string) { c.forget(database, slotKey, key) }

// ForgetTag invalidates the values with a tag.
func (c *Cache) ForgetTag(database uint32, tag string) { c.forget(database, slotTag, tag) }

func (c *Cache) forget(database uint32, kind, name string) {
	if c != nil {
		c.stamps.Invalidate(database, stamp.Touched{Slots: []stamp.Slot{c.valueSlot(database, kind, name)}})
	}
}

// ForgetTable invalidates the values that name a table, and the pages of its rows.
func (c *Cache) ForgetTable(database, table uint32) {
	if c != nil {
		c.stamps.Invalidate(database, stamp.Touched{Slots: []stamp.Slot{c.stamps.Whole(database, table)}})
	}
}

// ForgetDatabase invalidates all that is kept of a database.
func (c *Cache) ForgetDatabase(database uint32) {
	if c != nil {
		c.stamps.Invalidate(database, stamp.Touched{Everything: true})
	}
}
