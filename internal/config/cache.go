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
	Images  int // bytes of what SQL reads of tables; default 64 MiB; 0 is none
}

func defaultCache() Cache { return Cache{Bytes: 32 << 20, Percent: 80, Images: 64 << 20} }

func (c *Cache) register(s Set) {
	s.Int(&c.Bytes, "cache-bytes", "how much memory each sidecar keeps answers in, in bytes; 0 keeps none")
	s.Int(&c.Percent, "cache-database-percent", "how much of that memory one database may take, in percent")
	s.Int(&c.Images, "sql-image-bytes", "how much memory each sidecar keeps tables in that SQL reads, in bytes; 0 keeps none")
}

func (c *Cache) validate() error {
	const least = 1 << 20
	var errs []error
	if c.Bytes != 0 && c.Bytes < least {
		errs = append(errs, invalid("cache-bytes", strconv.Itoa(c.Bytes), fmt.Sprintf("want 0 or at least %d", least)))
	}
	if c.Images != 0 && c.Images < least {
		errs = append(errs, invalid("sql-image-bytes", strconv.Itoa(c.Images), fmt.Sprintf("want 0 or at least %d", least)))
	}
	if c.Percent < 1 || c.Percent > 100 {
		errs = append(errs, invalid("cache-database-percent", strconv.Itoa(c.Percent), "must be from 1 to 100"))
	}
	return errors.Join(errs...)
}
