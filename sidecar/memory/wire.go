package memory

import (
	"bytes"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// KeepRowWire is KeepRow of a row that is encoded already. The table's name and the key are as Lookup has them; wire is the
// datav1.Row, nil for none. All bytes are copied.
func (c *Cache) KeepRowWire(
	reading stamp.Reading, slot stamp.Slot, database uint32, table, key []byte, columns []*datav1.Column, wire []byte,
) {
	if c == nil || reading.Until == 0 {
		return
	}
	e := &entry{
		key: string(appendRowKey(nil, database, table, key)), reading: reading, slots: [1]stamp.Slot{slot},
		kind: KindRow, database: database,
	}
	var err error
	if e.shape, err = c.shapeOf(c.usage(database), columns); err != nil {
		return
	}
	e.data = bytes.Clone(wire) // of a row it is never empty: it has a version
	c.keep(e, 0)
}
