package edgesql

// view is how the statement that runs reads a table: from its image, or from the snapshot.
type view struct {
	reads *reads // nil where no images are kept
	run   uint64 // of which statement the rest is
	image *image // that is what the snapshot has; nil where there is none
	work  []int64
	own   int64 // the sum of work
}

// begin readies the view for the statement that runs.
func (t *table) begin() {
	v := &t.view
	v.run = t.conn.run
	if t.conn.images == nil {
		return
	}
	if v.reads == nil {
		v.reads = t.conn.images.of(t.conn.database, t.Table, len(t.paths))
		v.work = make([]int64, len(t.paths))
	}
	v.own = 0
	t.conn.read = append(t.conn.read, t)
	v.reads.begin(t.conn.snap.Touched(t.conn.snap.TableSlot(t.ID)))
	t.look()
}

// look takes the image that there is if it is what the snapshot has.
func (t *table) look() {
	v := &t.view
	img := v.reads.image.Load()
	if img == nil {
		return
	}
	slot := t.conn.snap.TableSlot(t.ID)
	switch {
	case t.conn.snap.Holds(img.reading, slot):
		v.image = img
		images := t.conn.images
		if now := t.conn.begun.Sub(images.opened).Milliseconds(); now != v.reads.used.Load() {
			v.reads.used.Store(now)
		}
	case t.conn.snap.Touched(slot) > img.reading.Until:
		t.conn.images.outdated(v.reads, img)
	}
}

// endReads tells what the statement has read without an image, and lets go of images.
func (c *conn) endReads() {
	for _, t := range c.read {
		v := &t.view
		v.image = nil
		for i, n := range v.work {
			if n > 0 {
				v.reads.work[i].Add(n)
				v.work[i] = 0
			}
		}
	}
	clear(c.read)
	c.read = c.read[:0]
}

// spend counts work along a path without an image.
func (t *table) spend(path int, work int64) {
	if v := &t.view; v.reads != nil {
		v.work[path] += work
		v.own += work
	}
}

// useImage returns the image, and for an index its order, for a plan; nil where it is read from the snapshot.
func (t *table) useImage(p *plan) (*image, *order, error) {
	v := &t.view
	if v.run != t.conn.run {
		t.begin()
	}
	if v.reads == nil || p.used&t.virtual != 0 {
		return nil, nil, nil
	}
	if img, o := v.usable(p); img != nil {
		return img, o, nil
	}
	built, err := t.demand(p)
	if !built || err != nil {
		return nil, nil, err
	}
	img, o := v.usable(p)
	return img, o, nil
}

func (v *view) usable(p *plan) (*image, *order) {
	img := v.image
	if img == nil || !img.has(p.used) {
		return nil, nil
	}
	if p.path.index == nil {
		return img, nil
	}
	o := img.orders[p.path.number].Load()
	if o == nil {
		return nil, nil
	}
	return img, o
}

// demand sees to it that there will be an image if it is worth it; built is whether there may be one now.
func (t *table) demand(p *plan) (built bool, err error) {
	v, snap := &t.view, t.conn.snap
	if columns := v.reads.columns.Load(); p.used&^columns != 0 {
		v.reads.columns.Or(p.used)
	}
	if img := v.reads.image.Load(); img != nil && img != v.image {
		t.look() // somebody else has made one meanwhile
		if v.image == img {
			return true, nil
		}
	}
	work := v.own
	if v.image != nil && v.image.has(p.used) {
		work = v.work[p.path.number] + v.reads.work[p.path.number].Load() // only the order is not there
	} else {
		for i := range v.reads.work {
			work += v.reads.work[i].Load()
		}
	}
	if !v.reads.due(snap, work) {
		return false, nil
	}
	for i, n := range v.work {
		v.reads.work[i].Add(n)
		v.work[i] = 0
	}
	if !v.reads.due(snap, v.own) {
		t.conn.images.buildSoon(v.reads, snap)
		return false, nil
	}
	// This statement alone has read as much: it may well go on.
	v.own = 0
	img, err := t.conn.images.buildNow(t.conn.ctx, v.reads, snap)
	if img != nil {
		v.image = img
	}
	return img != nil, err
}
