package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

// planned runs the whole input again in the order of a plan, or as it stands if it has what no plan foresees.
func (r *run) planned(ctx context.Context, src *source) (err error) {
	file, start, done, err := src.file()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	p := newPlan()
	r.summary = Summary{}
	err = r.scan(file, segment{}, func(s sqlsplit.Statement) error {
		if role := roleOf(s.Text); role != roleRows && role != roleSchema {
			p.last = nil // no segment goes over it
			return r.leaveOut(ctx, s, role)
		}
		if !p.add(s) {
			return errPlan
		}
		return nil
	})
	steps := p.steps()
	r.foreignKeysOff = true // whatever the dump says at its end
	switch {
	case errors.Is(err, errPlan):
		r.summary, r.foreignKeysOff = Summary{}, false
		steps = []step{{segments: []segment{{end: math.MaxInt64}}}}
	case err != nil:
		return err
	}
	for _, step := range steps {
		r.whole = step.whole
		for _, g := range step.segments {
			if _, err := file.Seek(start+g.offset, io.SeekStart); err != nil {
				return fmt.Errorf("read %s: %w", r.opts.Name, err)
			}
			part := io.LimitReader(file, g.end-g.offset)
			if err := r.scan(part, g, func(s sqlsplit.Statement) error { return r.add(ctx, s) }); err != nil {
				return err
			}
		}
	}
	return nil
}
