package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	mesh      = "00112233445566778899aabbccddeeff"
	otherMesh = "ffeeddccbbaa99887766554433221100"
)

func authority(t *testing.T, clock func() time.Time) *Authority {
	t.Helper()
	a, err := OpenAuthority(t.TempDir(), mesh, clock)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// credentials are a node's of an authority.
func credentials(t *testing.T, a *Authority, region string, role Role, node string) *Credentials {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.Issue(&key.PublicKey, ID{Mesh: a.Mesh(), Region: region, Role: role}, node)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCredentials(key, chain, a.Roots(), a.clock())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestID(t *testing.T) {
	id := ID{Mesh: mesh, Region: "eu-west-1", Role: RoleSidecar}
	if got := id.String(); got != "spiffe://"+mesh+"/region/eu-west-1/sidecar" {
		t.Errorf("got %s", got)
	}
	if got, err := ParseID(id.String()); err != nil || got != id {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{
		"", "spiffe://", mesh, "spiffe://" + mesh, "spiffe://" + mesh + "/region/eu/", "spiffe://" + mesh + "/region/eu/admin",
		"spiffe://" + mesh + "/region//sidecar", "spiffe://" + mesh + "/region/eu/sidecar/", "spiffe://" + mesh + "/region/e%75/sidecar",
		"https://" + mesh + "/region/eu/sidecar", "spiffe://" + strings.ToUpper(mesh) + "/region/eu/sidecar",
		"spiffe://" + mesh + "/region/eu/sidecar?x", "spiffe://" + mesh + "/region/../sidecar",
	} {
		if id, err := ParseID(bad); !errors.Is(err, ErrID) {
			t.Errorf("%q is %v, %v", bad, id, err)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("spiffe://" + mesh + "/region/eu-west-1/sidecar")
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := ParseID(text); err == nil && id.String() != text {
			t.Errorf("%q is read as %q", text, id)
		}
	})
}

func TestAuthorityIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	a, err := OpenAuthority(dir, mesh, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenAuthority(dir, mesh, nil)
	if err != nil || b.Pin() != a.Pin() {
		t.Fatalf("another authority: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, keyFile), []byte("-----BEGIN PRIVATE KEY-----\nSECRET\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir, mesh, nil); !errors.Is(err, ErrFile) || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("a broken key: %v", err)
	}
}

// TestVerify holds certificates against what they must be.
func TestVerify(t *testing.T) {
	a, foreign := authority(t, nil), authority(t, nil)
	other, err := OpenAuthority(t.TempDir(), otherMesh, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	good := credentials(t, a, "eu", RoleSidecar, "n1")
	check := func(chain []*x509.Certificate, at time.Time, grace time.Duration) (Peer, error) {
		return verify(verifyParams{
			chain: chain, roots: a.Roots(), mesh: mesh, now: at, usage: x509.ExtKeyUsageClientAuth, grace: grace,
		})
	}
	p, err := check(good.Chain, now, 0)
	if err != nil || p.ID.Region != "eu" || p.Node != "n1" || p.Expired || p.Expires.Sub(now) > Lifetime {
		t.Errorf("got %+v, %v", p, err)
	}
	bad := map[string]struct {
		chain []*x509.Certificate
		at    time.Time
		grace time.Duration
	}{
		"none":              {nil, now, Grace},
		"another authority": {credentials(t, foreign, "eu", RoleSidecar, "n1").Chain, now, Grace},
		"another mesh":      {credentials(t, other, "eu", RoleSidecar, "n1").Chain, now, Grace},
		"the authority":     {a.Roots(), now, Grace},
		"expired":           {good.Chain, now.Add(Lifetime + time.Minute), 0},
		"expired long ago":  {good.Chain, now.Add(Lifetime + Grace + time.Minute), Grace},
		"not yet valid":     {good.Chain, now.Add(-time.Hour), Grace},
	}
	for name, b := range bad {
		if p, err := check(b.chain, b.at, b.grace); !errors.Is(err, ErrCertificate) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	if p, err := check(good.Chain, now.Add(Lifetime+time.Hour), Grace); err != nil || !p.Expired {
		t.Errorf("within the grace: %+v, %v", p, err)
	}
	// Nobody makes names that would be read as others'.
	key, _ := NewKey()
	for _, id := range []ID{
		{Mesh: otherMesh, Region: "eu", Role: RoleSidecar}, {Mesh: mesh, Region: "eu/primary", Role: RoleSidecar}, {Mesh: mesh, Region: "eu", Role: "x"},
	} {
		if _, err := a.Issue(&key.PublicKey, id, "n1"); !errors.Is(err, ErrID) {
			t.Errorf("%v was issued: %v", id, err)
		}
	}
}

func TestCredentialsFiles(t *testing.T) {
	a, dir := authority(t, nil), t.TempDir()
	c := credentials(t, a, "eu", RoleSidecar, "n1")
	if _, err := LoadCredentials(dir, time.Now()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	if err := c.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := LoadCredentials(dir, time.Now().Add(3*Lifetime)) // a node that was off
	if err != nil || got.Self().Node != "n1" || !got.Key.Equal(c.Key) {
		t.Fatalf("got %+v, %v", got, err)
	}
	for _, name := range []string{CredentialsFile, trustFile} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", name, info.Mode(), err)
		}
	}
	other := credentials(t, a, "eu", RoleSidecar, "n2")
	if _, err := NewCredentials(other.Key, c.Chain, c.Roots, time.Now()); !errors.Is(err, ErrFile) {
		t.Errorf("another's key: %v", err)
	}
	if _, err := NewCredentials(c.Key, c.Chain, authority(t, nil).Roots(), time.Now()); !errors.Is(err, ErrCertificate) {
		t.Errorf("another's roots: %v", err)
	}
}

// handshake makes a TLS connection and returns its state at the server, and the client's error.
func handshake(server, client *tls.Config) (state tls.ConnectionState, atClient error) {
	near, far := pipe()
	done := make(chan error, 1)
	s := tls.Server(far, server)
	go func() { done <- s.Handshake() }()
	atClient = tls.Client(near, client).Handshake()
	if atClient != nil {
		near.Close()
	}
	<-done // what it says, the test asks of the state
	state = s.ConnectionState()
	near.Close()
	far.Close()
	return state, atClient
}

// TestRotation goes from one key of the authority to the next, with nodes that know the old one only.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	at := time.Now()
	clock := func() time.Time { return at }
	a, err := OpenAuthority(dir, mesh, clock)
	if err != nil {
		t.Fatal(err)
	}
	early := NewNode(credentials(t, a, "eu", RoleSidecar, "n1"), clock)
	token := JoinToken{URL: "https://h:1", Mesh: mesh, CA: a.Pin(), Secret: NewSecret()}
	if err := Rotate(dir, clock); err != nil {
		t.Fatal(err)
	}
	b, err := OpenAuthority(dir, mesh, clock)
	if err != nil || b.Pin() == a.Pin() || len(b.Roots()) != 2 {
		t.Fatalf("%d roots, %v", len(b.Roots()), err)
	}
	primary := NewNode(credentials(t, b, "home", RolePrimary, "primary"), clock)
	late := NewNode(credentials(t, b, "us", RoleSidecar, "n2"), clock)
	for name, n := range map[string]*Node{"of the old key": early, "of the new key": late} {
		state, atClient := handshake(primary.Server(true), n.Client("h2", RolePrimary))
		p, err := primary.Caller(state)
		if atClient != nil || err != nil || p.Node != n.Self().Node {
			t.Errorf("%s: %v, %v, %+v", name, atClient, err, p)
		}
		state, atClient = handshake(late.Server(false), early.Client("h2", RoleSidecar))
		if p, err := late.Caller(state); atClient != nil || err != nil || p.Node != "n1" {
			t.Errorf("between nodes: %v, %v, %+v", atClient, err, p)
		}
	}
	if _, err := handshake(primary.Server(true), JoiningClient(token, clock)); !errors.Is(err, ErrCertificate) {
		t.Errorf("a token from before the rotation: %v", err)
	}
	token.CA = b.Pin()
	if _, err := handshake(primary.Server(true), JoiningClient(token, clock)); err != nil {
		t.Errorf("a token from after the rotation: %v", err)
	}
	// Once nothing of the old key's serves any more, it is forgotten.
	at = at.Add(overlap + time.Hour)
	if c, err := OpenAuthority(dir, mesh, clock); err != nil || len(c.Roots()) != 1 || len(c.cross) != 0 {
		t.Errorf("after the overlap: %v", err)
	}
}

func TestToken(t *testing.T) {
	a := authority(t, nil)
	want := JoinToken{
		URL: "https://10.0.0.1:7070", Mesh: mesh, CA: a.Pin(), Secret: NewSecret(), Region: "eu", Expires: time.Now().UTC().Truncate(time.Second),
	}
	text, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseJoinToken(text); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if strings.Contains(want.String()+want.GoString(), want.Secret) {
		t.Error("the secret is shown")
	}
	for _, change := range []func(*JoinToken){
		func(t *JoinToken) { t.URL = "http://10.0.0.1:7070" }, func(t *JoinToken) { t.URL = "https://u:p@h" },
		func(t *JoinToken) { t.Mesh = "x" }, func(t *JoinToken) { t.CA = "sha256:abc" }, func(t *JoinToken) { t.CA = strings.TrimPrefix(t.CA, pinPrefix) },
		func(t *JoinToken) { t.Secret = "short" }, func(t *JoinToken) { t.Region = "a/b" },
	} {
		bad := want
		change(&bad)
		if _, err := bad.Encode(); err == nil || strings.Contains(err.Error(), want.Secret) {
			t.Errorf("%v: %v", bad.URL, err)
		}
	}
	for _, bad := range []string{"", "{}", string(text) + "x", string(text) + string(text), `{"secret":"` + want.Secret + `"`} {
		if _, err := ParseJoinToken([]byte(bad)); err == nil || strings.Contains(err.Error(), want.Secret) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

func FuzzParseJoinToken(f *testing.F) {
	f.Add([]byte(`{"url":"https://h:1","mesh":"` + mesh + `","ca":"sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","secret":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","expires":"2026-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		token, err := ParseJoinToken(text)
		if err != nil {
			return
		}
		again, err := token.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseJoinToken(again); err != nil || got.Secret != token.Secret || got.URL != token.URL {
			t.Errorf("%q comes back as %q: %v", text, again, err)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	key, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	der, err := NewRequest(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		if key, err := ParseRequest(der); err == nil && key == nil || err != nil && !errors.Is(err, ErrFile) {
			t.Errorf("%v, %v", key, err)
		}
	})
}

func FuzzDecodePEM(f *testing.F) {
	key, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	text, err := EncodeKey(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(bytes.Repeat(text, 2))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, _, err := decodePEM(text); err != nil && !errors.Is(err, ErrFile) {
			t.Error(err)
		}
	})
}

// renewal is a node whose certificates an authority renews.
type renewal struct {
	renewer  *Renewer
	fail     atomic.Bool
	mu       sync.Mutex
	requests []time.Time
}

func newRenewal(t *testing.T, clock func() time.Time) *renewal {
	t.Helper()
	a := authority(t, clock)
	r := &renewal{}
	r.renewer = &Renewer{
		Node: NewNode(credentials(t, a, "eu", RoleSidecar, "n1"), clock), Logger: slog.New(slog.DiscardHandler),
		Renew: func(_ context.Context, request []byte) (chain, roots []*x509.Certificate, err error) {
			r.mu.Lock()
			r.requests = append(r.requests, clock())
			r.mu.Unlock()
			if r.fail.Load() {
				return nil, nil, errors.New("no primary")
			}
			var key *ecdsa.PublicKey
			if key, err = ParseRequest(request); err != nil {
				return nil, nil, err
			}
			chain, err = a.Issue(key, ID{Mesh: mesh, Region: "eu", Role: RoleSidecar}, "n1")
			return chain, a.Roots(), err
		},
	}
	return r
}

// made are the times of the requests so far, once every goroutine is at rest.
func (r *renewal) made() []time.Time {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRenewal(t, time.Now)
		begun := time.Now()
		go r.renewer.Run(t.Context())
		time.Sleep(Lifetime*2/3 - time.Minute)
		if len(r.made()) != 0 {
			t.Errorf("renewed after %s", r.made()[0].Sub(begun))
		}
		time.Sleep(3 * time.Minute)
		first := r.renewer.Node.Credentials()
		if len(r.made()) != 1 || time.Until(first.Chain[0].NotAfter) < Lifetime-5*time.Minute {
			t.Fatalf("%d renewals, expires %v", len(r.made()), first.Chain[0].NotAfter)
		}

		// Without a primary it goes on asking, with what it has.
		r.fail.Store(true)
		time.Sleep(Lifetime)
		n := len(r.made())
		if n < 100 || n > 2000 || r.renewer.Node.Credentials() != first {
			t.Errorf("%d attempts in a third of a day", n)
		}
		r.fail.Store(false)
		time.Sleep(2 * time.Minute)
		if second := r.renewer.Node.Credentials(); second == first || second.Key.Equal(first.Key) {
			t.Error("not renewed once the primary is back, or with the old key")
		}
	})
}

// TestRenewalAfterJump lets the clock on the wall jump while timers know nothing of it.
func TestRenewalAfterJump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var jump atomic.Int64
		r := newRenewal(t, func() time.Time { return time.Now().Add(time.Duration(jump.Load())) })
		go r.renewer.Run(t.Context())
		time.Sleep(time.Hour)
		jump.Store(int64(20 * time.Hour))
		time.Sleep(2 * lookInterval)
		if len(r.made()) != 1 {
			t.Fatalf("%d renewals after the clock went on by 20 hours", len(r.made()))
		}
		jump.Store(int64(-20 * time.Hour))
		time.Sleep(time.Hour)
		if len(r.made()) != 1 {
			t.Errorf("%d renewals after the clock went back", len(r.made()))
		}
	})
}

// TestRenewalOfAnother refuses a certificate that makes the node another one.
func TestRenewalOfAnother(t *testing.T) {
	r := newRenewal(t, time.Now)
	a := authority(t, time.Now)
	r.renewer.Renew = func(_ context.Context, request []byte) (chain, roots []*x509.Certificate, err error) {
		key, err := ParseRequest(request)
		if err != nil {
			return nil, nil, err
		}
		chain, err = a.Issue(key, ID{Mesh: mesh, Region: "us", Role: RoleSidecar}, "n1")
		return chain, a.Roots(), err
	}
	before := r.renewer.Node.Credentials()
	if err := r.renewer.Once(t.Context()); !errors.Is(err, ErrCertificate) || r.renewer.Node.Credentials() != before {
		t.Errorf("became another region's node: %v", err)
	}
}
