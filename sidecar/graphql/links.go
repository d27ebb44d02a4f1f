package graphql

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	graphqlv1 "github.com/nearside-dev/nearside/gen/nearside/graphql/v1"
)

// addLinks adds to objects what their fields refer to. A field user_id of any message refers to what GetUser returns, and the message
// gets the field user; what has an id and is called User gets the list of each method that lists by a user_id. Options in the protos
// (nearside.graphql.v1) say it where names do not.
func (b *builder) addLinks() {
	l := &links{builder: b, nouns: make(map[string][]*getter), getters: make(map[string]*getter), lists: make(map[string]*method)}
	for _, m := range b.methods {
		if !m.safe || m.stream {
			continue
		}
		l.safe = append(l.safe, m)
		if m.rule != nil && m.result == nil { // its proto says that there is something to look up: the one that its answer has
			looked := *m
			if looked.result = onlyList(m.output); looked.result == nil && m.output.Fields().Len() == 1 {
				looked.result = m.output.Fields().Get(0)
			}
			m = &looked
		}
		if m.result == nil || m.result.Message() == nil || isWellKnown(m.result.Message()) {
			continue
		}
		if m.result.IsList() {
			l.lists[m.procedure] = m
		} else if g := getterOf(m); g != nil {
			l.getters[m.procedure] = g
			if g.noun != "" {
				l.nouns[g.noun] = append(l.nouns[g.noun], g)
			}
		}
	}
	for _, g := range l.getters {
		g.batch = l.objectsBatch(g)
	}
	objects := b.sorted()
	for _, o := range objects {
		d, _ := o.descriptor.(protoreflect.MessageDescriptor)
		fields := d.Fields()
		for i := range fields.Len() {
			l.addReference(o.value, d, fields.Get(i))
		}
	}
	for _, o := range objects {
		d, _ := o.descriptor.(protoreflect.MessageDescriptor)
		for _, m := range b.methods {
			if list := l.lists[m.procedure]; list != nil {
				l.addList(o.value, d, list)
			}
		}
	}
}

// links are the methods that look something up.
type links struct {
	*builder

	safe    []*method
	nouns   map[string][]*getter // by what they get: "User"
	getters map[string]*getter   // by procedure
	lists   map[string]*method   // by procedure
}

// getter is a method that returns one object by its key.
type getter struct {
	call  *method
	noun  string // "User", "" where it is not named so
	param protoreflect.FieldDescriptor
	batch *batch
}

// getterOf returns a method as a getter: GetUser(id), GetUser(user_id), or one whose proto says which field takes the key.
func getterOf(m *method) *getter {
	noun, _ := strings.CutPrefix(m.name(), "Get")
	if noun == m.name() {
		noun = ""
	}
	names := []string{"id", snake(noun) + "_id"}
	if by := m.rule.GetBy(); by != "" {
		names = []string{by}
	} else if noun == "" {
		return nil
	}
	for _, name := range names {
		if f := m.input.Fields().ByName(protoreflect.Name(name)); f != nil && isKeyKind(f) && !f.IsList() {
			return &getter{call: m, noun: noun, param: f}
		}
	}
	return nil
}

func isKeyKind(f protoreflect.FieldDescriptor) bool {
	switch f.Kind() {
	case protoreflect.StringKind, protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return true
	default:
		return false
	}
}

func snake(name string) string { return strings.ToLower(strings.Join(words(name), "_")) }

// name is the method's own: "GetUser".
func (m *method) name() string { return m.procedure[strings.LastIndexByte(m.procedure, '/')+1:] }

// service is the full name of the method's service.
func (m *method) service() string { return m.procedure[1:strings.LastIndexByte(m.procedure, '/')] }

// packageOf is the package of a method's service.
func packageOf(m *method) string {
	service := m.service()
	return service[:max(0, strings.LastIndexByte(service, '.'))]
}

// named returns what an option calls by a name: one of a service's own, or of anybody's by its full name.
func (l *links) named(name, service string) *method {
	procedure := "/" + service + "/" + name
	if at := strings.LastIndexByte(name, '.'); at >= 0 {
		procedure = "/" + name[:at] + "/" + name[at+1:]
	}
	for _, m := range l.safe {
		if m.procedure == procedure {
			return m
		}
	}
	return nil
}

// keyOf is the field of an object that has its key.
func keyOf(d protoreflect.MessageDescriptor, rule *graphqlv1.Lookup) protoreflect.FieldDescriptor {
	name := rule.GetKey()
	if name == "" {
		name = "id"
	}
	if f := d.Fields().ByName(protoreflect.Name(name)); f != nil && isKeyKind(f) && !f.IsList() {
		return f
	}
	return nil
}

// keysOf returns the field of a request for several keys of a kind, which is named as one of those, or is the only one that there is
// where an option says that the method is meant.
func keysOf(m *method, kind protoreflect.Kind, meant bool, names ...string) protoreflect.FieldDescriptor {
	for _, name := range names {
		if f := m.input.Fields().ByName(protoreflect.Name(name)); f != nil && f.IsList() && f.Kind() == kind {
			return f
		}
	}
	var only protoreflect.FieldDescriptor
	for i := range m.input.Fields().Len() {
		switch f := m.input.Fields().Get(i); {
		case !f.IsList() || f.Kind() != kind:
		case only != nil:
			return nil
		default:
			only = f
		}
	}
	if !meant {
		return nil
	}
	return only
}

// sizeOf is how many keys a call may have.
func sizeOf(params protoreflect.FieldDescriptor) int {
	if n := rulesOf(params).GetRepeated().GetMaxItems(); n > 0 {
		return int(min(n, maxBatch))
	}
	return maxBatch
}

// maxBatch is how many keys one call looks up where no rule of its request says less.
const maxBatch = 100

// objectsBatch returns the method that a getter's keys can be looked up with together: BatchGetUsers(ids), with the same kind of keys
// and the same objects, which have their key themselves.
func (l *links) objectsBatch(g *getter) *batch {
	meant := l.named(g.call.rule.GetBatch(), g.call.service())
	for _, m := range l.safe {
		if meant != nil && m != meant {
			continue
		}
		if meant == nil {
			noun, ok := strings.CutPrefix(m.name(), "BatchGet")
			if !ok || g.noun == "" || strings.TrimSuffix(noun, "s") != g.noun || packageOf(m) != packageOf(g.call) {
				continue
			}
		}
		objects := g.call.result.Message()
		result := m.result
		if result == nil {
			result = onlyList(m.output)
		}
		if result == nil || !result.IsList() || result.Message() == nil || result.Message().FullName() != objects.FullName() {
			continue
		}
		key := keyOf(objects, g.call.rule)
		params := keysOf(m, g.param.Kind(), meant != nil, "ids", string(g.param.Name())+"s")
		if key == nil || params == nil || key.Kind() != g.param.Kind() || l.needsMore(m, params) {
			continue
		}
		return &batch{call: m, params: params, result: result, key: key, size: sizeOf(params)}
	}
	return nil
}

// onlyList is the field of a message that is a list of messages, if there is one and no other.
func onlyList(d protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	var only protoreflect.FieldDescriptor
	for i := range d.Fields().Len() {
		if f := d.Fields().Get(i); f.IsList() && f.Message() != nil {
			if only != nil {
				return nil
			}
			only = f
		}
	}
	return only
}

// needsMore reports whether a request needs something besides one field.
func (l *links) needsMore(m *method, without protoreflect.FieldDescriptor) bool {
	for i := range m.input.Fields().Len() {
		if f := m.input.Fields().Get(i); f != without && isRequired(f) {
			return true
		}
	}
	return false
}

// listsBatch returns the method that lists for several keys at once what m lists for one: BatchListOrders(user_ids). Its answer is a
// list of messages that have the key, in a field named as m's param is, and the objects. Of m's other arguments it takes those that
// it has a field of the same name and type for.
func (l *links) listsBatch(m *method, param protoreflect.FieldDescriptor, args []*argument) *batch {
	name := m.rule.GetBatch()
	if name == "" {
		name = "Batch" + m.name()
	}
	call := l.named(name, m.service())
	if call == nil {
		return nil
	}
	lists := onlyList(call.output)
	params := keysOf(call, param.Kind(), m.rule.GetBatch() != "", string(param.Name())+"s")
	if lists == nil || params == nil || l.needsMore(call, params) {
		return nil
	}
	key := lists.Message().Fields().ByName(param.Name())
	objects := onlyList(lists.Message())
	if key == nil || key.IsList() || key.Kind() != param.Kind() || objects == nil ||
		objects.Message().FullName() != m.result.Message().FullName() {
		return nil
	}
	b := &batch{
		call: call, params: params, result: lists, key: key, list: objects, size: sizeOf(params), args: make(map[string]*argument),
	}
	for _, a := range args {
		if a.proto == nil {
			continue
		}
		f := call.input.Fields().ByName(a.proto.Name())
		if f != nil && f != params && f.Cardinality() == a.proto.Cardinality() && l.inputText(f) == a.typeText {
			b.args[a.name] = &argument{name: a.name, typeText: a.typeText, proto: f}
		}
	}
	return b
}

// find returns what refers to a noun from a package: the one there, else the only one there is.
func find(list []*getter, pkg string) *getter {
	for _, g := range list {
		if packageOf(g.call) == pkg {
			return g
		}
	}
	if len(list) == 1 {
		return list[0]
	}
	return nil
}

// referred returns what a field refers to, and the name of what its message gets for it; nil is nothing.
func (l *links) referred(d protoreflect.MessageDescriptor, f protoreflect.FieldDescriptor) (g *getter, name string) {
	name, many := strings.CutSuffix(string(f.Name()), "_ids")
	if !many {
		name = strings.TrimSuffix(string(f.Name()), "_id")
	}
	short := lowerFirst(camel(name))
	if many {
		short += "s"
	}
	pkg := string(d.ParentFile().Package())
	if proto.HasExtension(f.Options(), graphqlv1.E_Reference) {
		r, _ := proto.GetExtension(f.Options(), graphqlv1.E_Reference).(*graphqlv1.Reference)
		if r.GetName() != "" {
			short = r.GetName()
		}
		for _, m := range l.safe {
			full := m.service() + "." + m.name()
			if found := l.getters[m.procedure]; found != nil && (r.GetGet() == full || r.GetGet() == m.name() && packageOf(m) == pkg) {
				return found, short
			}
		}
		return nil, ""
	}
	if name == string(f.Name()) || f.IsList() != many {
		return nil, ""
	}
	return find(l.nouns[camel(name)], pkg), short
}

// addReference gives an object what its field f refers to, if that is known.
func (l *links) addReference(o *object, d protoreflect.MessageDescriptor, f protoreflect.FieldDescriptor) {
	g, name := l.referred(d, f)
	if g == nil || f.IsMap() || f.Kind() != g.param.Kind() || o.fields[name] != nil || !isName(name) {
		return
	}
	if l.needsMore(g.call, g.param) {
		return
	}
	o.add(&field{
		name: name, call: g.call, list: f.IsList(), link: &link{source: f, param: g.param, many: f.IsList(), batch: g.batch},
		typeName: l.outputName(g.call.result), description: "What " + fieldName(f) + " refers to.",
	})
}

// addList gives an object the list of what refers to it.
func (l *links) addList(o *object, d protoreflect.MessageDescriptor, m *method) {
	if of := m.rule.GetOf(); of != "" {
		if of != string(d.FullName()) && (strings.Contains(of, ".") || of != string(d.Name()) || packageOf(m) != string(d.ParentFile().Package())) {
			return
		}
	} else if packageOf(m) != string(d.ParentFile().Package()) {
		return
	}
	noun, ok := strings.CutPrefix(m.name(), "List")
	name := lowerFirst(noun)
	if m.rule.GetName() != "" {
		name, ok = m.rule.GetName(), true
	}
	id := keyOf(d, m.rule)
	by := m.rule.GetBy()
	if by == "" {
		by = snake(string(d.Name())) + "_id"
	}
	param := m.input.Fields().ByName(protoreflect.Name(by))
	if !ok || id == nil || param == nil || param.IsList() || param.Kind() != id.Kind() || o.fields[name] != nil || !isName(name) {
		return
	}
	args := l.arguments(m.input, param.Name())
	o.add(&field{
		name: name, call: m, link: &link{source: id, param: param, batch: l.listsBatch(m, param, args)}, args: args,
		list: true, inner: true, typeName: l.outputName(m.result), description: "The " + name + " of it, a page at a time.",
	})
}
