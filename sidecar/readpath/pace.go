package readpath

import (
	"sync/atomic"
	"time"
)

// Limits of pace.
const (
	paceMiss     = 16 // answers at once that make up for one that was not
	paceSlow     = 16 * paceMiss
	minPacePause = time.Second
	maxPacePause = time.Minute
)

// pace learns whether a statement can be answered at once: one that is too slow costs nowLimit each time that it is tried. Time
// passes for a quick one too when others have the processors, so a few failures say nothing: those of more than one try in
// paceMiss do. Then it is left alone for a second, and twice as long each time that it has not become better, up to a minute.
//
// The zero pace is of a statement that was not tried. It is safe for concurrent use; of concurrent changes one may be lost.
type pace struct {
	score atomic.Int32
	until atomic.Int64 // nanoseconds of the time from which on it is tried again
	pause atomic.Int64 // the last one, in nanoseconds
}

// slow reports whether the statement is not to be tried now.
func (p *pace) slow(now time.Time) bool {
	wait := p.until.Load() - now.UnixNano()
	return wait > 0 && wait <= int64(maxPacePause) // else the clock was set back
}

// answered notes that the statement was answered in time.
func (p *pace) answered() {
	score := p.score.Load()
	if score > 0 && p.score.CompareAndSwap(score, score-1) && score == 1 {
		p.pause.Store(0)
	}
}

// missed notes that it was not; hopeless says that no try will be better.
func (p *pace) missed(now time.Time, hopeless bool) {
	if score := p.score.Add(paceMiss); score < paceSlow && !hopeless {
		return
	}
	p.score.Store(paceSlow / 2) // it has half as many tries the next time
	pause := min(max(2*time.Duration(p.pause.Load()), minPacePause), maxPacePause)
	p.pause.Store(int64(pause))
	p.until.Store(now.Add(pause).UnixNano())
}
