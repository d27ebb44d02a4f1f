package verify

import (
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// MaxDuration is how long a check may run, whatever its caller's deadline.
const MaxDuration = 10 * time.Minute

// Gate bounds how many checks run at a time. It may be used concurrently.
type Gate struct {
	what  string
	slots chan struct{}
}

// NewGate returns a gate for n at a time; what names them in errors.
func NewGate(n int, what string) *Gate { return &Gate{what: what, slots: make(chan struct{}, n)} }

// Enter lets one in, who calls leave when done, or answers OVERLOADED.
func (g *Gate) Enter() (leave func(), err error) {
	select {
	case g.slots <- struct{}{}:
		return func() { <-g.slots }, nil
	default:
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "%d %s at a time", cap(g.slots), g.what).
			WithRetryAfter(time.Second)
	}
}
