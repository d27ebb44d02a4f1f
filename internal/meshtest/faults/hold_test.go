package faults_test

import (
	"fmt"
	"testing"

	"github.com/nearside-dev/nearside/internal/meshtest/faultproxy"
)

// TestStalledLink stops what comes down to a region in the middle of a message, again and again, without ending a connection:
// writes go on, and when the bytes flow again nothing is lost, whether the region had given the connection up or not.
func TestStalledLink(t *testing.T) {
	m, links := startLinked(t, west)
	east := m.Client(east)
	written := int64(0)
	for i := range int64(4) {
		held := links[west].HoldAfter(faultproxy.HTTP2, faultproxy.Down, 1+500*i)
		for n := range 20 {
			if err := insert(t.Context(), east, "", fmt.Sprint(i, " ", n)); err != nil {
				t.Fatal(err)
			}
			written++
		}
		<-held
		links[west].Heal()
		m.WaitSync(db)
		m.CompareAll(db)
	}
	checkOnce(t, m, written)
}
