package engine

import (
	"context"
	"sync"
	"testing"
	"time"
)

// Idle read connections are closed while the database is: each once.
func TestCloseReadersWhileItCloses(t *testing.T) {
	f := newFixture(t)
	for range 20 {
		var reading, begun sync.WaitGroup
		begun.Add(maxReaders)
		for range maxReaders {
			reading.Go(func() {
				err := f.db.View(context.Background(), func(*View) error {
					begun.Done()
					begun.Wait() // so that there is a connection for each
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		reading.Wait()
		var closing sync.WaitGroup
		for range 4 {
			closing.Go(func() {
				if err := f.db.CloseReaders(time.Now()); err != nil {
					t.Error(err)
				}
			})
		}
		closing.Go(func() {
			if err := f.db.Close(); err != nil {
				t.Error(err)
			}
		})
		closing.Wait()
		var err error
		if f.db, err = f.openDB(); err != nil {
			t.Fatal(err)
		}
	}
}
