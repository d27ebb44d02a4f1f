package readpath

import (
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// provenance is what the replica says of an answer of its own to whoever keeps it. Nil is nobody's.
type provenance struct {
	answered bool          // by the replica, and no other
	reading  stamp.Reading // when; zero where it is not known, and nothing may be kept
	floor    stamp.Stamp   // of a state that was read at least
	slots    []stamp.Slot  // what each row depends on, in the order of the keys; for a page one

	passed func() // called when the read goes on to the primary; may be nil
}

// isReplica notes whether the replica answers. If it does not the read may take long.
func (p *provenance) isReplica(answered bool) {
	if p == nil {
		return
	}
	p.answered = answered
	if !answered && p.passed != nil {
		p.passed()
	}
}

// dependsOnRow notes that the next answer changes when a row does, there or not.
func (v *view) dependsOnRow(t *catalog.Table, key []byte) {
	if v.provenance != nil {
		v.depends(v.snap.RowSlot(t.ID, key))
	}
}

// dependsOnTable notes that the next answer may change when any row of a table does.
func (v *view) dependsOnTable(t *catalog.Table) {
	if v.provenance != nil {
		v.depends(v.snap.TableSlot(t.ID))
	}
}

func (v *view) depends(s stamp.Slot) {
	p := v.provenance
	p.reading, p.floor = v.snap.Reading(), v.snap.Floor()
	p.slots = append(p.slots, s)
}
