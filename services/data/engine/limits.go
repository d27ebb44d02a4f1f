package engine

import "github.com/nearside-dev/nearside/internal/sqlrun"

// maxCatalogBytes is how large a schema may be when it is stored: as a row of its own, and some room.
const maxCatalogBytes = sqlrun.MaxRowBytes / 2
