package faultproxy

import (
	"bytes"
	"sync"
)

// maxTapBytes is how much a Tap keeps; what comes after that it does not have.
const maxTapBytes = 1 << 20

// Tap has a copy of what came into a proxy in one direction.
type Tap struct {
	kind Kind
	side Side

	mu  sync.Mutex
	got bytes.Buffer
}

// Tap copies what comes in from now on, in a direction on connections of a kind, also what is then lost or cut off, until
// Heal.
func (p *Proxy) Tap(kind Kind, side Side) *Tap {
	t := &Tap{kind: kind, side: side}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taps = append(p.taps, t)
	return t
}

// Bytes returns what came in so far, of all connections.
func (t *Tap) Bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.got.Bytes())
}

func (p *Proxy) tap(kind Kind, side Side, piece []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.taps {
		if t.kind == kind && t.side == side {
			t.mu.Lock()
			t.got.Write(piece[:min(len(piece), maxTapBytes-t.got.Len())])
			t.mu.Unlock()
		}
	}
}
