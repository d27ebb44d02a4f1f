package access

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/value"
)

// Version names a state of _mesh.
type Version struct {
	Epoch   uint32
	Version uint64
}

// before says whether a state is older than another one.
func (v Version) before(other Version) bool {
	return v.Epoch < other.Epoch || v.Epoch == other.Epoch && v.Version < other.Version
}

// Source is where a role has the rows of _mesh from.
type Source interface {
	// Version returns the present state; ok is false where there is none yet. It is called for each request.
	Version() (v Version, ok bool)
	// Read calls f for each row of the tables of meshdb.AccessTables with the values of the columns that are named there, and
	// returns the state that they are of.
	Read(f func(table string, values []value.Value) error) (Version, error)
	// Wait returns when the rows are at least of a state, or ctx has ended, or it is known that they will not be.
	Wait(ctx context.Context, v Version)
	// Connected reports whether the rows are kept up to date.
	Connected() bool
}

// Right is what an action needs.
type Right uint8

// The rights. Each of Read, Write and Own is of a database and has those before it.
const (
	RightAny   Right = iota // to be somebody
	RightRead               // to read a database
	RightWrite              // to write it
	RightOwn                // to change its schema, to delete it
	RightAdmin              // to do anything
)

// Names of roles, as the rows have them.
const (
	RoleReader = "reader"
	RoleWriter = "writer"
	RoleOwner  = "owner"
	RoleAdmin  = "admin"
)

// account is a row of accounts and the principal that it makes.
type account struct {
	principal   identity.Principal // without a credential
	disabled    bool
	tokensAfter int64 // milliseconds since 1970
}

type apiKey struct {
	id, account string
	expires     int64 // milliseconds since 1970; 0 is never
}

type signingKey struct {
	issuer        string
	public        ed25519.PublicKey
	verifiesUntil int64 // milliseconds since 1970; 0 is without end
}

// state is what the rows say at one version. It is immutable.
type state struct {
	version Version

	accounts map[string]*account
	keys     map[[sha256.Size]byte]*apiKey
	keyEnds  map[string]int64 // of keys that have an end, by id
	signing  map[string]*signingKey
	revoked  map[string]int64 // to when that can matter
	limits   map[limitKey]Rate
	scopes   [scopes]bool // of which there are limits
	policies *policies    // nil: there are none
}

// readState reads the rows. What they say as before stays the same object: subjects and policies, by which answers are kept.
func readState(source Source, before *state, kept *keptPolicies) (*state, error) {
	s := &state{
		accounts: make(map[string]*account), keys: make(map[[sha256.Size]byte]*apiKey), keyEnds: make(map[string]int64),
		signing: make(map[string]*signingKey), revoked: make(map[string]int64), limits: make(map[limitKey]Rate),
	}
	var roles [][3]string
	var texts []policy.Row
	tenants := make(map[string]string)
	version, err := source.Read(func(table string, v []value.Value) error {
		switch table {
		case meshdb.TableAccounts:
			kind := identity.User
			if v[1].Text() == identity.Service.String() {
				kind = identity.Service
			}
			s.accounts[v[0].Text()] = &account{
				principal: identity.Principal{Kind: kind, ID: v[0].Text(), Name: v[2].Text()},
				disabled:  v[3].Integer() != 0, tokensAfter: v[4].Integer(),
			}
		case meshdb.TableAccountRoles:
			roles = append(roles, [3]string{v[0].Text(), v[1].Text(), v[2].Text()})
		case meshdb.TableAPIKeys:
			var hash [sha256.Size]byte
			if copy(hash[:], v[2].Bytes()) != len(hash) {
				return fmt.Errorf("%w: %s", meshdb.ErrRow, table)
			}
			k := &apiKey{id: v[0].Text(), account: v[1].Text(), expires: v[3].Integer()}
			s.keys[hash] = k
			if k.expires != 0 {
				s.keyEnds[k.id] = k.expires
			}
		case meshdb.TableSigningKeys:
			public := slices.Clone(v[2].Bytes())
			if len(public) != ed25519.PublicKeySize {
				return fmt.Errorf("%w: %s", meshdb.ErrRow, table)
			}
			s.signing[v[0].Text()] = &signingKey{issuer: v[1].Text(), public: public, verifiesUntil: v[3].Integer()}
		case meshdb.TableRevocations:
			s.revoked[v[0].Text()] = v[1].Integer()
		case meshdb.TableRateLimits:
			key := limitKey{scope: scopeOf(v[0].Text()), subject: v[1].Text()}
			s.limits[key] = Rate{PerSecond: v[2].Real(), Burst: float64(v[3].Integer())}
			s.scopes[key.scope] = true
		case meshdb.TableAccountTenants:
			tenants[v[0].Text()] = v[1].Text()
		case meshdb.TablePolicies:
			texts = append(texts, policy.Row{Name: v[0].Text(), Text: v[1].Text()})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read who may call: %w", err)
	}
	for _, r := range roles {
		a := s.accounts[r[0]]
		if a == nil {
			continue
		}
		role := r[1]
		if role != RoleAdmin {
			role += ":" + r[2]
		}
		a.principal.Roles = append(a.principal.Roles, role)
	}
	for id, a := range s.accounts {
		p := &a.principal
		slices.Sort(p.Roles)
		p.Subject = &identity.Subject{Kind: p.Kind, ID: p.ID, Name: p.Name, Roles: p.Roles, Tenant: tenants[id]}
		if before == nil {
			continue
		}
		if old := before.accounts[id]; old != nil && old.principal.Subject.Equal(p.Subject) {
			p.Subject = old.principal.Subject
		}
	}
	s.policies = kept.of(texts, before)
	s.version = version
	return s, nil
}

// resolve returns the principal of a credential that is genuine. made is when an access token was made, in milliseconds since
// 1970; of an API key, whose account's tokens_after says nothing, it is 0.
func (s *state) resolve(accountID, credential, session string, made int64) (*identity.Principal, error) {
	a := s.accounts[accountID]
	switch {
	case a == nil, a.disabled, made != 0 && made <= a.tokensAfter:
		return nil, errInvalid
	}
	if _, revoked := s.revoked[credential]; revoked {
		return nil, errInvalid
	}
	if _, revoked := s.revoked[session]; revoked && session != "" {
		return nil, errInvalid
	}
	p := a.principal
	p.Credential = credential
	p.MeshEpoch, p.MeshVersion = s.version.Epoch, s.version.Version
	return &p, nil
}
