package edgesql

import (
	"errors"
	"slices"
)

// Forget closes the connections that are kept for a database: they hold its schema and texts of statements. It lets go of
// the images of its tables too. What is in use is kept until its statement ends, and no longer.
func (e *Engine) Forget(database uint32) error {
	e.mu.Lock()
	var old []*conn
	e.idle = slices.DeleteFunc(e.idle, func(c *conn) bool {
		if c.database != database {
			return false
		}
		old = append(old, c)
		e.tables -= len(c.tables)
		return true
	})
	e.mu.Unlock()
	if e.images != nil {
		e.images.forget(database)
	}
	var errs []error
	for _, c := range old {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}
