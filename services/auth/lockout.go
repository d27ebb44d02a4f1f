package auth

import (
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

const freeAttempts = 5

// lockout keeps names after too many wrong passwords from being tried on. It knows unknown names as well as known ones.
type lockout struct{ *access.Backoff }

func newLockout(clock func() time.Time) lockout {
	return lockout{access.NewBackoff(clock, freeAttempts)}
}

// check returns ACCOUNT_LOCKED for a locked name.
func (l lockout) check(name string) error {
	if wait := l.Wait(name); wait > 0 {
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_ACCOUNT_LOCKED, "too many wrong passwords: try again in %s",
			wait.Round(time.Second)).WithRetryAfter(wait)
	}
	return nil
}
