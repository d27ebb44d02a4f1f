package edgesql

// rangeOf readies the cursor for the rows of its image from lower to before upper, in an order or that of their keys.
func (c *cursor) rangeOf(o *order) {
	keys := &c.image.keys
	c.rows, c.chain = nil, nil
	if o != nil {
		keys, c.rows = &o.keys, o.rows
	}
	c.keys = keys
	from := keys.search(c.lower)
	c.place, c.step, c.togo = from, 1, keys.searchFrom(from, c.upper)-from
	if c.plan.reverse {
		c.place, c.step = from+c.togo-1, -1
	}
}

// chainOf readies the cursor for the rows that its filters want; ok is false where the image cannot tell.
func (c *cursor) chainOf() (ok bool, err error) {
	h := c.image.hash(c.plan.filters)
	if h == nil {
		if c.chainless == c.image {
			return false, nil
		}
		if h, err = c.conn.images.addHash(c.conn.ctx, c.view.reads, c.image, c.plan.filters); h == nil {
			c.chainless = c.image
			return false, err
		}
	}
	first, found := h.first[string(c.wanted)]
	if !found {
		first = -1
	}
	c.chain, c.place = h, int(first)
	return true, nil
}

// nextInImage goes to the next row of the image.
func (c *cursor) nextInImage() bool {
	if c.chain != nil {
		if c.place < 0 {
			return false
		}
		c.at, c.place = c.place, int(c.chain.next[c.place])
		c.conn.rows++
		return true
	}
	if c.togo == 0 {
		return false
	}
	c.at = c.place
	if c.rows != nil {
		c.at = int(c.rows[c.place])
	}
	c.conn.rows++
	if c.plan.distinct > 0 {
		c.skipAlike()
		return true
	}
	c.place += c.step
	c.togo--
	return true
}
