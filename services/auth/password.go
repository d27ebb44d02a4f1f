package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// params are argon2id's. Those of new hashes are what OWASP advises at present; a hash that has others is made anew when its
// password comes by.
type params struct {
	memoryKiB, passes uint32
	lanes             uint8
}

var presentParams = params{memoryKiB: 19 << 10, passes: 2, lanes: 1}

const (
	saltBytes = 16
	hashBytes = 32
	// Bounds of what a row may ask for.
	maxMemoryKiB = 1 << 20
	maxPasses    = 64

	maxWaitingHashes = 32
)

// passwords hashes passwords, few at a time: a flood of log-ins waits for itself and not for the readers' processors.
type passwords struct {
	running chan struct{}
	waiting atomic.Int64
	dummy   string // what an unknown name's password is compared with
}

func newPasswords() (*passwords, error) {
	p := &passwords{running: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
	var err error
	p.dummy, err = p.hash(context.Background(), "of nobody")
	return p, err
}

// admit waits for a place.
func (p *passwords) admit(ctx context.Context) error {
	defer p.waiting.Add(-1)
	if p.waiting.Add(1) > maxWaitingHashes {
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "too many log-ins at a time").WithRetryAfter(time.Second)
	}
	select {
	case p.running <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hash returns what is kept of a password.
func (p *passwords) hash(ctx context.Context, password string) (string, error) {
	if err := p.admit(ctx); err != nil {
		return "", err
	}
	defer func() { <-p.running }()
	var salt [saltBytes]byte
	_, _ = rand.Read(salt[:]) // never fails
	return encodeHash(presentParams, salt[:], presentParams.key(password, salt[:])), nil
}

// compare reports whether a password is that of a hash, and whether the hash is to be made anew.
func (p *passwords) compare(ctx context.Context, encoded, password string) (equal, old bool, err error) {
	if encoded == "" {
		encoded = p.dummy // takes the same time, and is nobody's
		defer func() { equal = false }()
	}
	with, salt, want, err := decodeHash(encoded)
	if err != nil {
		return false, false, err
	}
	if err := p.admit(ctx); err != nil {
		return false, false, err
	}
	defer func() { <-p.running }()
	equal = subtle.ConstantTimeCompare(with.key(password, salt), want) == 1
	return equal, with != presentParams, nil
}

func (p params) key(password string, salt []byte) []byte {
	return argon2.IDKey([]byte(password), salt, p.passes, p.memoryKiB, p.lanes, hashBytes)
}

func encodeHash(p params, salt, key []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memoryKiB, p.passes, p.lanes,
		b64.EncodeToString(salt), b64.EncodeToString(key))
}

var errHash = errors.New("not a password's hash")

func decodeHash(encoded string) (p params, salt, key []byte, err error) {
	parts := strings.Split(encoded, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, nil, nil, errHash
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memoryKiB, &p.passes, &p.lanes); n != 3 || err != nil {
		return p, nil, nil, errHash
	}
	if p.memoryKiB == 0 || p.memoryKiB > maxMemoryKiB || p.passes == 0 || p.passes > maxPasses || p.lanes == 0 {
		return p, nil, nil, errHash
	}
	b64 := base64.RawStdEncoding.Strict()
	if salt, err = b64.DecodeString(parts[4]); err != nil {
		return p, nil, nil, errHash
	}
	if key, err = b64.DecodeString(parts[5]); err != nil || len(key) != hashBytes {
		return p, nil, nil, errHash
	}
	return p, salt, key, nil
}
