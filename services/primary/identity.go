package primary

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// logFolder is the folder of the log, in that of the primary.
const logFolder = "log"

// identity is what makes a mesh this mesh: its id, and the key of its bookmarks. It is made once.
type identity struct {
	MeshID      [16]byte
	BookmarkKey [32]byte
}

type identityFile struct {
	MeshID      string `json:"mesh_id"`      // hex
	BookmarkKey string `json:"bookmark_key"` // hex
}

// loadIdentity reads DIR/mesh.json, or makes it (mode 0600) where there is no data yet: with another identity, no region and no
// bookmark would know what is there.
func loadIdentity(dir string) (id identity, err error) {
	path := filepath.Join(dir, "mesh.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, logFolder)); !errors.Is(err, os.ErrNotExist) {
			return id, errors.Join(err, fmt.Errorf("%s is gone, but there is data of a mesh beside it: put it back", path))
		}
		return createIdentity(path)
	}
	if err != nil {
		return id, err
	}
	var f identityFile
	if err := json.Unmarshal(text, &f); err != nil {
		return id, fmt.Errorf("%s is not a mesh's identity", path) // the parser's message could show the key
	}
	if !decodeHex(id.MeshID[:], f.MeshID) || !decodeHex(id.BookmarkKey[:], f.BookmarkKey) {
		return id, fmt.Errorf("%s is not a mesh's identity", path)
	}
	return id, nil
}

func decodeHex(dst []byte, text string) bool {
	b, err := hex.DecodeString(text)
	return err == nil && copy(dst, b) == len(dst) && len(b) == len(dst)
}

func createIdentity(path string) (id identity, err error) {
	_, _ = rand.Read(id.MeshID[:]) // never fails
	_, _ = rand.Read(id.BookmarkKey[:])
	text, err := json.Marshal(identityFile{
		MeshID: hex.EncodeToString(id.MeshID[:]), BookmarkKey: hex.EncodeToString(id.BookmarkKey[:]),
	})
	if err != nil {
		return id, err
	}
	// Whole or not at all: a torn file would make every copy of the data foreign.
	temporary := path + ".new"
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return id, err
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return id, fmt.Errorf("write %s: %w", temporary, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return id, err
	}
	folder, err := os.Open(filepath.Dir(path)) // it must be there before the log is
	if err != nil {
		return id, err
	}
	return id, errors.Join(folder.Sync(), folder.Close())
}
