package edgesql

import (
	"fmt"

	"github.com/nearside-dev/nearside/internal/policy"
)

// A statement with a view reads its tables through cursors that pass over what is not in it. SQLite never gets to see such a row:
// no expression is computed of it, and nothing that SQLite does can tell that it is there. What knows more of a table than its
// cursors do, row counts and images, is off.

// look finds out what of its tables a statement may see. It does so each time that the statement runs.
func (c *conn) look(s *statement) error {
	if c.filter == nil {
		return nil
	}
	c.visible = make(map[uint32]*policy.Rows, len(s.tables))
	for _, t := range s.tables {
		f, err := c.filter.Table(t.Name)
		if err != nil {
			return err
		}
		c.visible[t.ID] = f.Of(t)
	}
	return nil
}

// take has the cursor see what its statement may.
func (c *cursor) take() error {
	if c.rule = nil; !c.conn.filtered {
		return nil
	}
	rule, ok := c.conn.visible[c.ID]
	if !ok {
		return fmt.Errorf("table %s is read by a statement that did not say so", c.Name)
	}
	c.rule = rule
	return nil
}

// see returns more and err, if the present row is in the view, or else those of the first row after it that is.
func (c *cursor) see(more bool, err error) (bool, error) {
	if c.rule == nil {
		return more, err
	}
	for passed := 1; more && err == nil; passed++ {
		if err := c.load(); err != nil {
			return false, err
		}
		if c.rule.Has(c.row.Values) {
			return true, nil
		}
		if passed%checkEvery == 0 && c.conn.ctx.Err() != nil {
			return false, c.conn.ctx.Err()
		}
		more, err = c.next()
	}
	return false, err
}
