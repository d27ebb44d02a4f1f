package memory

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// Page is a page of rows in memory.
type Page struct{ *entry }

// AppendListResponse appends the wire form of a ListResponse with the page, but without its answer: whoever appends that as
// field 4 has a whole ListResponse.
func (p Page) AppendListResponse(dst []byte) []byte {
	return append(append(dst, p.shape.wire...), p.data...)
}

// Decode returns the page, which is the caller's but for its columns, and has no answer.
func (p Page) Decode() (*datav1.ListResponse, error) {
	res := new(datav1.ListResponse)
	if err := proto.Unmarshal(p.data, res); err != nil {
		return nil, fmt.Errorf("decode page in memory: %w", err)
	}
	res.Columns = p.shape.columns
	return res, nil
}

// EncodePage returns what identifies a page within its database.
func EncodePage(req *datav1.ListRequest) ([]byte, error) {
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(&datav1.ListRequest{
		Table: req.GetTable(), Index: req.GetIndex(), Prefix: req.GetPrefix(), Start: req.GetStart(), End: req.GetEnd(),
		Reverse: req.GetReverse(), PageSize: req.GetPageSize(), PageToken: req.GetPageToken(),
	})
	if err != nil {
		return nil, fmt.Errorf("encode list request: %w", err)
	}
	return wire, nil
}

// PageKey returns what identifies a page's entry among all entries.
func PageKey(database uint32, page []byte) string {
	return string(append(appendKey(nil, KindPage, database), page...))
}

// LookupPage answers a List of a database from memory, as Lookup does a Get. The page is what EncodePage returned.
func (c *Cache) LookupPage(now stamp.Stamp, database uint32, page []byte) (p Page, ok bool) {
	if c == nil {
		return p, false
	}
	var buf [256]byte
	e := c.find(KindPage, append(appendKey(buf[:0], KindPage, database), page...), now)
	return Page{e}, e != nil
}

// KeepPage keeps the answer to a List, as it was read. It depends on slot, its table's. ok is false where nothing can be kept.
func (c *Cache) KeepPage(
	reading stamp.Reading, slot stamp.Slot, database uint32, page []byte, res *datav1.ListResponse,
) (p Page, ok bool) {
	if c == nil || reading.Until == 0 {
		return Page{}, false
	}
	e := &entry{
		key: string(append(appendKey(nil, KindPage, database), page...)), reading: reading, slots: [1]stamp.Slot{slot},
		kind: KindPage, database: database,
	}
	var err error
	if e.shape, err = c.shapeOf(c.usage(database), res.GetColumns()); err != nil {
		return Page{}, false
	}
	e.data, err = proto.Marshal(&datav1.ListResponse{Rows: res.GetRows(), NextPageToken: res.GetNextPageToken()})
	if err != nil {
		return Page{}, false
	}
	c.keep(e, 0)
	return Page{e}, true
}

// HoldsPage reports whether a page that was found is what the copy has at a later moment too.
func (c *Cache) HoldsPage(p Page, now stamp.Stamp) bool { return c.holds(p.entry, now) }
