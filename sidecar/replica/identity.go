package replica

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// Identity is what a sidecar learns of its mesh when it first meets a primary, and keeps.
type Identity struct {
	MeshID        [16]byte
	BookmarkKey   []byte // secret; not to be changed
	PrimaryRegion string
}

// Names of the store's own values.
const (
	metaMeshID        = "mesh-id"
	metaBookmarkKey   = "bookmark-key"
	metaPrimaryRegion = "primary-region"
	metaHeardAt       = "heard-at"
	metaErase         = "erase/" // then the eraser's
)

// Identity returns the mesh that the store belongs to; ok is false until a primary was met.
func (s *Store) Identity() (id Identity, ok bool) {
	if p := s.identity.Load(); p != nil {
		return *p, true
	}
	return Identity{}, false
}

// Adopt makes the store a part of the mesh that a primary says it is of, durably. A store that already belongs to another
// mesh keeps to it: ErrWrongMesh. A new bookmark key or primary region of the same mesh replaces the old.
func (s *Store) Adopt(id Identity) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	if old := s.identity.Load(); old != nil {
		if old.MeshID != id.MeshID {
			return fmt.Errorf("%w: %x, this is a copy of %x", ErrWrongMesh, id.MeshID, old.MeshID)
		}
		if bytes.Equal(old.BookmarkKey, id.BookmarkKey) && old.PrimaryRegion == id.PrimaryRegion {
			return nil
		}
	}
	id.BookmarkKey = bytes.Clone(id.BookmarkKey)
	b := s.db.NewBatch()
	defer b.Close()
	for name, value := range map[string][]byte{
		metaMeshID: id.MeshID[:], metaBookmarkKey: id.BookmarkKey, metaPrimaryRegion: []byte(id.PrimaryRegion),
	} {
		if err := b.Set(metaKey(name), value, nil); err != nil {
			return fmt.Errorf("keep mesh identity: %w", err)
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("keep mesh identity: %w", err)
	}
	if err := s.Failed(); err != nil {
		return err
	}
	s.identity.Store(&id)
	return nil
}

func (s *Store) loadMeta() error {
	meshID, err := get(s.db, metaKey(metaMeshID))
	if err != nil {
		return err
	}
	if meshID != nil {
		id := Identity{}
		if copy(id.MeshID[:], meshID) != len(id.MeshID) {
			return fmt.Errorf("%w: mesh id of %d bytes", ErrCorrupt, len(meshID))
		}
		if id.BookmarkKey, err = get(s.db, metaKey(metaBookmarkKey)); err != nil {
			return err
		}
		region, err := get(s.db, metaKey(metaPrimaryRegion))
		if err != nil {
			return err
		}
		id.PrimaryRegion = string(region)
		s.identity.Store(&id)
	}
	heardAt, err := get(s.db, metaKey(metaHeardAt))
	if err != nil {
		return err
	}
	if len(heardAt) == 8 {
		s.heardAt = int64(binary.BigEndian.Uint64(heardAt))
	}
	return nil
}

// saveHeardAt writes down when all copies were last known to be complete, for the estimates of the process after this one.
func (s *Store) saveHeardAt(t time.Time) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	b := s.db.NewBatch()
	defer b.Close()
	if err := b.Set(metaKey(metaHeardAt), binary.BigEndian.AppendUint64(nil, uint64(t.UnixNano())), nil); err != nil {
		return fmt.Errorf("note the last heartbeat: %w", err)
	}
	if err := b.Commit(pebble.NoSync); err != nil { // not worth a sync of its own, each second of an idle region
		return fmt.Errorf("note the last heartbeat: %w", err)
	}
	return s.Failed()
}
