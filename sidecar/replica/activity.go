package replica

import "sync/atomic"

// activity is whether anybody asks how fresh the copies are, or has news of them. While nobody does, pings are rarer.
type activity struct {
	asked atomic.Bool   // since the follower looked last
	quiet atomic.Bool   // pings are rare, until somebody asks
	stir  chan struct{} // of capacity 1: pings are to be frequent again
}

// note is called at each read of a copy, so it writes only what is not there yet.
func (a *activity) note() {
	if !a.asked.Load() {
		a.asked.Store(true)
	}
	if a.quiet.Load() && a.quiet.CompareAndSwap(true, false) {
		select {
		case a.stir <- struct{}{}:
		default:
		}
	}
}

// looked reports whether somebody asked since it was called last.
func (a *activity) looked() bool { return a.asked.Load() && a.asked.Swap(false) }

// rest says that pings are rare from now on, and reports false if somebody asked meanwhile.
func (a *activity) rest() bool {
	a.quiet.Store(true)
	return !a.asked.Load() || !a.quiet.CompareAndSwap(true, false)
}
