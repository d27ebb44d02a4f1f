// Package gather lets work that belongs together come together: those whom a batch has answered come back one by one, and the first of
// them would else have the next batch for itself, for which all the others have to wait.
package gather

import (
	"runtime"
	"time"
)

// Limit is how long Ready lets others run, about.
const Limit = time.Millisecond

// Ready lets those goroutines run who are ready to, for as long as that makes more of them wait, up to most. last is how many the batch
// before had. Where neither that nor those who wait say that there are several callers it returns at once: one caller would wait for
// whoever computes.
func Ready(last, most int, waiting func() int) {
	n := waiting()
	if last < 2 && n < 2 {
		return
	}
	begun := time.Now()
	for before := -1; n > before && n < most && time.Since(begun) < Limit; n = waiting() {
		before = n
		runtime.Gosched()
	}
}
