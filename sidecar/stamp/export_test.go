package stamp

// SetSteps makes changes go through steps. Nil is the right order again.
func (t *Table) SetSteps(steps func(raise func(), commit func() error, publish func()) error) {
	t.steps = steps
}

// SetReading has f called when a reader has taken the newest stamp and has not opened what it reads.
func (t *Table) SetReading(f func()) { t.reading = f }

// SetHolding has f called when a reader has taken its moment and has not looked at the stamps.
func (t *Table) SetHolding(f func()) { t.holding = f }
