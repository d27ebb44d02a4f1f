package memory

// Evict takes all that is kept of a database out of the memory: its bytes are not to be there any more. What is kept of what was read
// before the newest change of the database does not come in afterwards.
func (c *Cache) Evict(database uint32) {
	if c == nil {
		return
	}
	c.ForgetDatabase(database)
	c.entries.Wait() // what is on its way into the cache
	c.mu.Lock()
	u := c.databases[database]
	c.mu.Unlock()
	if u == nil {
		return
	}
	c.evict(u)
	if u.bytes.Load() > 0 {
		// Of very many entries some may not be in the order any more. What is lost beside them is read again.
		c.entries.Clear()
	}
}

// evict deletes the entries that a database is known to have.
func (c *Cache) evict(u *usage) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, hash := range u.order {
		if e, ok := c.entries.Get(hash); ok && e.usage == u {
			c.entries.Del(hash)
		}
	}
	c.entries.Wait()
	u.order = nil
	u.shapes = nil
}
