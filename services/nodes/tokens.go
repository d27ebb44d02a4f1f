package nodes

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/pki"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

const (
	tokensFile = "tokens.json"
	// maxTokens is how many tokens there may be that have not expired.
	maxTokens = 1000
)

// token is a join token without its secret.
type token struct {
	Region  string    `json:"region,omitempty"` // the only one that may use it
	Expires time.Time `json:"expires"`
	// SpentBy is the hash of the key that was certified for it, and Node and For what it was made; "" while it is not spent. It is
	// kept until it expires, so that an answer which got lost can be given again, to the same key alone.
	SpentBy string `json:"spent_by,omitempty"`
	Node    string `json:"node,omitempty"`
	For     string `json:"for,omitempty"`
}

// tokens are the join tokens of a mesh, in a file of the primary's own: no region needs to know of them. What spends one is on
// the disk before anybody has a certificate for it.
type tokens struct {
	path  string
	clock func() time.Time

	mu     sync.Mutex
	byHash map[string]token // by pki.SecretHash
}

func openTokens(dir string, clock func() time.Time) (*tokens, error) {
	t := &tokens{path: filepath.Join(dir, tokensFile), clock: clock, byHash: make(map[string]token)}
	text, err := os.ReadFile(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(text, &t.byHash) != nil || t.byHash == nil {
		return nil, fmt.Errorf("%s does not hold join tokens", t.path)
	}
	return t, nil
}

// save writes the tokens that have not expired.
func (t *tokens) save() error {
	for hash, one := range t.byHash {
		if t.clock().After(one.Expires) {
			delete(t.byHash, hash)
		}
	}
	text, err := json.Marshal(t.byHash)
	if err != nil {
		return err
	}
	return pki.WriteFile(t.path, append(text, '\n'))
}

// create makes a token and returns its secret.
func (t *tokens) create(region string, expires time.Time) (secret string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	secret = pki.NewSecret()
	hash := pki.SecretHash(secret)
	t.byHash[hash] = token{Region: region, Expires: expires}
	err = t.save()
	if err == nil && len(t.byHash) > maxTokens {
		err = rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "there are %d join tokens that have not expired", maxTokens)
	}
	if err != nil {
		delete(t.byHash, hash)
		return "", err
	}
	return secret, nil
}

// live reports whether a secret can still be spent.
func (t *tokens) live(secret string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	one, ok := t.byHash[pki.SecretHash(secret)]
	return ok && one.SpentBy == "" && t.clock().Before(one.Expires)
}

var errToken = rpcerr.New(datav1.ErrorReason_ERROR_REASON_JOIN_TOKEN_INVALID,
	"there is no such join token: it is spent, has expired, or is of another region")

// spend uses a secret for a key, which becomes node unless the same key has spent it already: then the node that it became is
// returned, and again is set.
func (t *tokens) spend(secret, region, key, node string) (became string, again bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	hash := pki.SecretHash(secret)
	one, ok := t.byHash[hash]
	switch {
	case !ok, !t.clock().Before(one.Expires), one.Region != "" && one.Region != region:
		return "", false, errToken.Clone()
	case one.SpentBy != "":
		if one.SpentBy != key || one.For != region {
			return "", false, errToken.Clone()
		}
		return one.Node, true, nil
	}
	spent := one
	spent.SpentBy, spent.Node, spent.For = key, node, region
	t.byHash[hash] = spent
	if err := t.save(); err != nil {
		t.byHash[hash] = one
		return "", false, err
	}
	return node, false, nil
}
