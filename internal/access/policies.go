package access

import (
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/policy"
)

// PolicyPrefix begins the name of a policy where rules of other kinds have names too.
const PolicyPrefix = "policy:"

// Policies is the Authorizer of a mesh: its roles, and its policies beside them. What a policy forbids no role allows. What a
// policy permits needs no role, but for what only an admin may: that a policy cannot give.
//
// An admin may always administer policies, whatever they say: who has forbidden everything can take it back.
type Policies struct{ verifier *Verifier }

var _ Authorizer = (*Policies)(nil)

// NewPolicies returns the Authorizer by the rows that a Verifier reads.
func NewPolicies(v *Verifier) *Policies { return &Policies{verifier: v} }

// Authorize implements Authorizer.
func (a *Policies) Authorize(p *identity.Principal, q Question) Decision {
	s := a.verifier.current.Load()
	if s == nil || s.policies == nil || p.Subject == nil {
		return Roles{}.Authorize(p, q)
	}
	return s.policies.decide(p, q)
}

// policies are a set and what is kept of what it says. A set that changes is another one, and begins with nothing kept.
type policies struct {
	set     *policy.Set
	rows    []policy.Row
	shards  []decisionShard
	seed    maphash.Seed
	metrics *keptPolicies
}

type decisionShard struct {
	mu  sync.RWMutex
	all map[decisionKey]Decision
	max int
}

// decisionKey is a question and who asks it.
type decisionKey struct {
	subject                 *identity.Subject
	action, database, table string
	right                   Right
}

const (
	decisionShards = 16
	// maxKeptName is how long names in a question may be whose answer is kept.
	maxKeptName = 512
)

// decide answers a question. It allocates nothing for one whose answer is kept.
func (ps *policies) decide(p *identity.Principal, q Question) Decision {
	k := decisionKey{subject: p.Subject, action: q.Action, database: q.Database, table: q.Table, right: q.Right}
	shard := &ps.shards[(maphash.String(ps.seed, q.Table)^maphash.String(ps.seed, p.Subject.ID))%decisionShards]
	shard.mu.RLock()
	d, ok := shard.all[k]
	shard.mu.RUnlock()
	if ok {
		return d
	}
	ps.metrics.misses.Inc()
	d = combine(ps.set, p.Subject, q)
	if len(q.Action)+len(q.Database)+len(q.Table) > maxKeptName {
		return d
	}
	k.action, k.database, k.table = strings.Clone(q.Action), strings.Clone(q.Database), strings.Clone(q.Table)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if len(shard.all) >= shard.max {
		for other := range shard.all {
			delete(shard.all, other)
			break
		}
	}
	shard.all[k] = d
	return d
}

func (ps *policies) kept() (n int) {
	for i := range ps.shards {
		s := &ps.shards[i]
		s.mu.RLock()
		n += len(s.all)
		s.mu.RUnlock()
	}
	return n
}

// combine returns what roles and policies say together.
func combine(set *policy.Set, s *identity.Subject, q Question) Decision {
	if q.Action == restrictsAction {
		return Decision{Restricted: set.Restricts(s, q.Database)}
	}
	d := Roles{}.Authorize(&identity.Principal{Kind: s.Kind, ID: s.ID, Name: s.Name, Roles: s.Roles}, q)
	if s.Kind == identity.Anonymous && !Known(q.Action) {
		d = Decision{Allowed: true, Policy: "public"} // the chain has asked whether it is
	}
	if set == nil || administersPolicies(s, q.Action) {
		return d
	}
	action, group := actionOf(q)
	v := set.Decide(s, action, group, resourceOf(q))
	switch {
	case v.Effect == policy.Forbids:
		return Decision{Policy: PolicyPrefix + v.Policy}
	case !d.Allowed && v.Effect == policy.Permits && q.Right < RightAdmin && !strings.HasPrefix(q.Database, "_"):
		d = Decision{Allowed: true, Policy: PolicyPrefix + v.Policy}
	case !d.Allowed:
		return d
	}
	d.Audit = v.Audit
	if q.Database == "" {
		return d
	}
	d.Restricted = set.Restricts(s, q.Database)
	if q.Table != "" {
		d.Rows = set.Filter(s, q.Database, q.Table)
	}
	return d
}

func administersPolicies(s *identity.Subject, action string) bool {
	return strings.HasPrefix(action, "/"+authv1connect.PolicyServiceName+"/") && slices.Contains(s.Roles, RoleAdmin)
}

// actionOf returns the action of a question as policies have it. Execute of what only reads is a Query.
func actionOf(q Question) (action, group string) {
	if !Known(q.Action) {
		return policy.ActionCall, ""
	}
	if q.Action == datav1connect.DataServiceExecuteProcedure && q.Right == RightRead {
		return policy.ActionOf(datav1connect.DataServiceQueryProcedure), groups[RightRead]
	}
	return policy.ActionOf(q.Action), groups[ruleOf(q.Action).right]
}

func resourceOf(q Question) policy.Resource {
	if q.Database != "" && Known(q.Action) {
		return policy.Resource{Database: q.Database, Table: q.Table}
	}
	service, method, _ := strings.Cut(policy.ActionOf(q.Action), "/")
	return policy.Resource{Service: service, Method: method}
}

// groups are the actions that methods are in, by what they need.
var groups = [...]string{RightAny: "", RightRead: "read", RightWrite: "write", RightOwn: "own", RightAdmin: "admin"}

// PolicySchema is what policies may talk about: all methods of the mesh that accounts may call.
var PolicySchema = sync.OnceValue(func() *policy.Schema {
	var methods []policy.Method
	for procedure, r := range rules {
		if !r.node {
			methods = append(methods, policy.Method{Procedure: procedure, Group: groups[r.right]})
		}
	}
	slices.SortFunc(methods, func(a, b policy.Method) int { return strings.Compare(a.Procedure, b.Procedure) })
	s, err := policy.NewSchema(methods)
	if err != nil {
		panic(err) // of names in this package; a test makes it
	}
	return s
})

// keptPolicies is how decisions are kept, and counted, from one set to the next.
type keptPolicies struct {
	max    int
	misses prometheus.Counter
}

func (k *keptPolicies) init(maxDecisions int) {
	k.max = max(1, maxDecisions/decisionShards)
	k.misses = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "nearside_policy_decisions_total", Help: "Questions that policies were asked, because the answer was not kept.",
	})
}

func (k *keptPolicies) collectors(v *Verifier) []prometheus.Collector {
	gauge := func(name, help string, f func(*policies) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if s := v.current.Load(); s != nil && s.policies != nil {
				return f(s.policies)
			}
			return 0
		})
	}
	return []prometheus.Collector{
		k.misses,
		gauge("nearside_policy_policies", "Policies that this node decides by.", func(p *policies) float64 { return float64(len(p.rows)) }),
		gauge("nearside_policy_kept_decisions", "Decisions by policies that are kept.", func(p *policies) float64 { return float64(p.kept()) }),
		gauge("nearside_policy_unreadable", "1 if there is a policy that this build cannot read, which forbids everything.", func(p *policies) float64 {
			if p.set.Unreadable() != "" {
				return 1
			}
			return 0
		}),
	}
}

// of returns the policies of rows: those of the state before if they are the same.
func (k *keptPolicies) of(rows []policy.Row, before *state) *policies {
	if len(rows) == 0 {
		return nil
	}
	if before != nil && before.policies != nil && before.policies.set.Version() == policy.VersionOf(rows) {
		return before.policies
	}
	ps := &policies{
		set: policy.NewSet(rows), rows: rows, shards: make([]decisionShard, decisionShards), seed: maphash.MakeSeed(), metrics: k,
	}
	for i := range ps.shards {
		ps.shards[i].all, ps.shards[i].max = make(map[decisionKey]Decision), k.max
	}
	return ps
}

// mayCall reports whether policies let a principal call a method that the mesh does not know, and want nothing recorded of it that
// nobody else records. Those that it does know are decided with their message.
func (g *Guard) mayCall(p *identity.Principal, procedure string, foreign func(string) bool) bool {
	s := g.verifier.current.Load()
	if s == nil || s.policies == nil || p.Subject == nil || Known(procedure) {
		return true
	}
	d := g.authorizer.Authorize(p, Question{Action: procedure})
	return d.Allowed && (!d.Audit || foreign == nil || !foreign(procedure))
}

func indexed(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }
