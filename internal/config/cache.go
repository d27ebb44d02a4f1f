package config

import (
	"errors"
	"fmt"
	"strconv"
)

// Cache is a sidecar's memory of answers.
type Cache struct {
	Bytes   int // default 32 MiB; 0 is none
	Percent int // how much of it one database may take; default 80
}

func defaultCache() Cache { return Cache{Bytes: 32 << 20, Percent: 80} }

func (c *Cache) register(s Set) {
	s.Int(&c.Bytes, "cache-bytes", "how much memory each sidecar keeps answers in, in bytes; 0 keeps none")
	s.Int(&c.Percent, "cache-database-percent", "how much of that memory one database may take, in percent")
}

func (c *Cache) validate() error {
	const least = 1 << 20
	var errs []error
	if c.Bytes != 0 && c.Bytes < least {
		errs = append(errs, invalid("cache-bytes", strconv.Itoa(c.Bytes), fmt.Sprintf("want 0 or at least %d", least)))
	}
	if c.Percent < 1 || c.Percent > 100 {
		errs = append(errs, invalid("cache-database-percent", strconv.Itoa(c.Percent), "must be from 1 to 100"))
	}
	return errors.Join(errs...)
}
