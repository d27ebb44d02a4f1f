package fieldrules

import (
	"fmt"
	"maps"
	"math"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	pvcel "buf.build/go/protovalidate/cel"
	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/checker"
	"cel.dev/cel-go/common/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// maxCost bounds what one rule may cost, in the units of CEL's estimates: some 100 ns each. Nothing can stop an expression that runs, so
// it is estimated before, for the longest list and the longest text of the message that is there.
const maxCost = 10_000_000

// costly is a rule that is an expression of CEL. Those of the standard cost no more than reading what they are of.
type costly struct {
	of    protoreflect.FullName
	env   *cel.Env // of all, that of its own would be large
	ast   *cel.Ast
	items bool // it is evaluated for each item of a list or a map
}

// sizes are the most that there may be of something.
type sizes struct {
	items uint64 // of a list or map
	text  uint64 // bytes of a text
}

// estimator estimates what an expression may cost by how much there is.
type estimator struct {
	rule   *costly
	all    uint64           // bytes of the message: nothing in it is more than that
	fields map[string]sizes // by name, of all messages within; nil is that nobody has looked
}

var _ checker.CostEstimator = estimator{}

// of returns how much there is of what has a path.
func (e estimator) of(path []string) sizes {
	name := ""
	for _, part := range path {
		if !strings.HasPrefix(part, "@") { // or it is an item of the one before
			name = part
		}
	}
	if name == "this" {
		name = string(e.rule.of.Name())
	}
	if s, ok := e.fields[name]; ok {
		return s
	}
	return sizes{e.all, e.all}
}

// EstimateSize implements checker.CostEstimator.
func (e estimator) EstimateSize(n checker.AstNode) *checker.SizeEstimate {
	most := e.all // a message or dyn, which may be any of them
	if t := n.Type(); t != nil {
		switch t.Kind() {
		case types.StringKind, types.BytesKind:
			most = e.of(n.Path()).text
		case types.ListKind, types.MapKind:
			most = e.of(n.Path()).items
		case types.BoolKind, types.IntKind, types.UintKind, types.DoubleKind, types.DurationKind, types.TimestampKind:
			most = 1
		default:
		}
	}
	return &checker.SizeEstimate{Max: most}
}

// linear are the functions of protovalidate's own that read all of what they are of.
var linear = map[string]bool{
	"unique": true, "isHostname": true, "isEmail": true, "isIp": true, "isIpPrefix": true, "isUri": true, "isUriRef": true,
	"isHostAndPort": true, "format": true,
}

// EstimateCallCost implements checker.CostEstimator.
func (e estimator) EstimateCallCost(function, _ string, target *checker.AstNode, _ []checker.AstNode) *checker.CallEstimate {
	if !linear[function] || target == nil {
		return nil
	}
	cost := e.all
	if k := (*target).Type().Kind(); k == types.StringKind && function != "format" {
		cost = e.EstimateSize(*target).Max
	}
	return &checker.CallEstimate{CostEstimate: checker.CostEstimate{Max: cost}, ResultSize: &checker.SizeEstimate{Max: e.all}}
}

// cost returns what the rule costs at most.
func (c *costly) cost(all uint64, fields map[string]sizes) uint64 {
	e := estimator{c, all, fields}
	estimate, err := c.env.EstimateCost(c.ast, e)
	if err != nil {
		return math.MaxUint64
	}
	if c.items {
		estimate = checker.FixedCostEstimate(max(e.of([]string{"this"}).items, 1)).Multiply(estimate)
	}
	return estimate.Max
}

// cheap returns how long a message may be of which no rule costs too much, whatever is in it: each item and each letter takes a byte.
func cheap(rules []costly) int {
next:
	for n := MaxBytes; n > 0; n /= 2 {
		for _, r := range rules {
			if r.cost(uint64(n), nil) > maxCost {
				continue next
			}
		}
		return n
	}
	return 0
}

// affordable returns REQUEST_TOO_LARGE for a message of which a rule may cost too much.
func (m *Method) affordable(message protoreflect.Message, length int) error {
	fields := maps.Clone(m.fields)
	measure(fields, message)
	for _, r := range m.costly {
		if r.cost(uint64(length), fields) > maxCost { // it is a length
			return TooLarge(m.input).With("rule", string(r.of))
		}
	}
	return nil
}

// measure looks for the longest lists and texts of a message.
func measure(fields map[string]sizes, m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(f.Name())
		s := fields[name]
		one := func(f protoreflect.FieldDescriptor, v protoreflect.Value) {
			switch {
			case f.Message() != nil:
				measure(fields, v.Message())
			case f.Kind() == protoreflect.StringKind:
				s.text = max(s.text, uint64(len(v.String())))
			case f.Kind() == protoreflect.BytesKind:
				s.text = max(s.text, uint64(len(v.Bytes())))
			default:
			}
		}
		switch {
		case f.IsMap():
			s.items = max(s.items, uint64(v.Map().Len()))
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				one(f.MapKey(), k.Value())
				one(f.MapValue(), v)
				return true
			})
		case f.IsList():
			s.items = max(s.items, uint64(v.List().Len()))
			if k := f.Kind(); k != protoreflect.StringKind && k != protoreflect.BytesKind && f.Message() == nil {
				break
			}
			for i := range v.List().Len() {
				one(f, v.List().Get(i))
			}
		default:
			one(f, v)
		}
		was := fields[name] // of messages within too
		fields[name] = sizes{max(was.items, s.items), max(was.text, s.text)}
		return true
	})
}

// costs reads the expressions of messages, in the same environment as the validator.
type costs struct {
	env   *cel.Env
	types *dynamicpb.Types
	known map[protoreflect.FullName][]costly
}

func newCosts(t *dynamicpb.Types) (*costs, error) {
	env, err := cel.NewEnv(cel.Lib(pvcel.NewLibrary()))
	return &costs{env: env, types: t, known: make(map[protoreflect.FullName][]costly)}, err
}

// of returns the expressions of a message and its fields.
func (c *costs) of(d protoreflect.MessageDescriptor) ([]costly, error) {
	if known, ok := c.known[d.FullName()]; ok {
		return known, nil
	}
	var out []costly
	rules, err := protovalidate.ResolveMessageRules(d)
	if err != nil {
		return nil, err
	}
	err = c.add(&out, d.FullName(), false, append(sources(rules.GetCelExpression()), rules.GetCel()...),
		cel.Types(dynamicpb.NewMessage(d)), cel.Variable("this", cel.ObjectType(string(d.FullName()))))
	for i := 0; err == nil && i < d.Fields().Len(); i++ {
		f := d.Fields().Get(i)
		var rules *validate.FieldRules
		if rules, err = protovalidate.ResolveFieldRules(f); err == nil && rules != nil {
			err = c.field(&out, f, rules, false)
		}
	}
	c.known[d.FullName()] = out
	return out, err
}

// field adds the expressions of a field's rules; items is that they are of those of a list or a map.
func (c *costs) field(out *[]costly, f protoreflect.FieldDescriptor, rules *validate.FieldRules, items bool) error {
	if rules.GetIgnore() == validate.Ignore_IGNORE_ALWAYS {
		return nil
	}
	options := append(pvcel.RequiredEnvOptions(f), cel.Variable("this", pvcel.ProtoFieldToType(f, false, items)))
	if err := c.add(out, f.FullName(), items, append(sources(rules.GetCelExpression()), rules.GetCel()...), options...); err != nil {
		return err
	}
	for _, nested := range []struct {
		of    func() protoreflect.FieldDescriptor
		rules *validate.FieldRules
	}{
		{func() protoreflect.FieldDescriptor { return f }, rules.GetRepeated().GetItems()},
		{f.MapKey, rules.GetMap().GetKeys()}, {f.MapValue, rules.GetMap().GetValues()},
	} {
		if nested.rules != nil {
			if err := c.field(out, nested.of(), nested.rules, true); err != nil {
				return err
			}
		}
	}
	return c.predefined(out, f, rules, items)
}

// predefined adds the expressions of rules that the service's own descriptors define.
func (c *costs) predefined(out *[]costly, f protoreflect.FieldDescriptor, rules *validate.FieldRules, items bool) error {
	r := rules.ProtoReflect()
	kind := r.WhichOneof(r.Descriptor().Oneofs().ByName("type"))
	if kind == nil {
		return nil
	}
	encoded, err := proto.Marshal(r.Get(kind).Message().Interface())
	if err != nil {
		return err
	}
	of := r.Get(kind).Message().New()
	if err := (proto.UnmarshalOptions{Resolver: c.types}).Unmarshal(encoded, of.Interface()); err != nil {
		return err
	}
	of.Range(func(x protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if !x.IsExtension() {
			return true
		}
		var p *validate.PredefinedRules
		if p, err = protovalidate.ResolvePredefinedRules(x); err != nil {
			return false
		}
		this := f
		if m := f.Message(); m != nil && !f.IsMap() && (items || !f.IsList()) && m.Fields().ByName("value") != nil {
			this = m.Fields().ByName("value") // a wrapper: its rules are of what it has
		}
		err = c.add(out, f.FullName(), items, p.GetCel(), append(pvcel.RequiredEnvOptions(f), cel.Types(of.Interface()),
			cel.Variable("this", pvcel.ProtoFieldToType(this, true, items)), cel.Variable("rule", pvcel.ProtoFieldToType(x, true, false)),
			cel.Variable("rules", cel.ObjectType(string(of.Descriptor().FullName()))))...)
		return err == nil
	})
	return err
}

func sources(expressions []string) []*validate.Rule {
	out := make([]*validate.Rule, len(expressions))
	for i := range expressions {
		out[i] = validate.Rule_builder{Expression: &expressions[i]}.Build()
	}
	return out
}

func (c *costs) add(out *[]costly, of protoreflect.FullName, items bool, rules []*validate.Rule, options ...cel.EnvOption) error {
	if len(rules) == 0 {
		return nil
	}
	env, err := c.env.Extend(options...)
	if err != nil {
		return fmt.Errorf("the rules of %s: %w", of, err)
	}
	for _, r := range rules {
		ast, issues := env.Compile(r.GetExpression())
		if err := issues.Err(); err != nil {
			return fmt.Errorf("the rules of %s: %s: %w", of, r.GetId(), err)
		}
		*out = append(*out, costly{of: of, env: c.env, ast: ast, items: items})
	}
	return nil
}
