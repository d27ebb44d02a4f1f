package graphql

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxBatch is how many keys one call looks up where no rule of its request says less.
const maxBatch = 100

// addLinks adds to objects what their fields refer to. A field user_id of any message refers to what GetUser returns, and the message
// gets the field user; what has an id and is called User gets the list of each method that lists by a user_id.
func (b *builder) addLinks() {
	getters := make(map[string][]*getter)
	var lists []*method
	for _, m := range b.methods {
		if !m.safe || m.stream || m.result == nil || m.result.Message() == nil || isWellKnown(m.result.Message()) {
			continue
		}
		if m.result.IsList() {
			lists = append(lists, m)
		} else if g := getterOf(m); g != nil {
			getters[g.noun] = append(getters[g.noun], g)
		}
	}
	for _, list := range getters {
		for _, g := range list {
			g.batch = b.batchOf(g, lists)
		}
	}
	objects := b.sorted()
	for _, o := range objects {
		d, _ := o.descriptor.(protoreflect.MessageDescriptor)
		fields := d.Fields()
		for i := range fields.Len() {
			b.addReference(o.value, d, fields.Get(i), getters)
		}
	}
	for _, o := range objects {
		d, _ := o.descriptor.(protoreflect.MessageDescriptor)
		for _, m := range lists {
			b.addList(o.value, d, m)
		}
	}
}

// getter is a method that returns one object by its key.
type getter struct {
	call  *method
	noun  string // "User"
	param protoreflect.FieldDescriptor
	batch *batch
}

// getterOf returns a method as a getter: GetUser(id), GetUser(user_id).
func getterOf(m *method) *getter {
	name := m.procedure[strings.LastIndexByte(m.procedure, '/')+1:]
	noun, ok := strings.CutPrefix(name, "Get")
	if !ok || noun == "" {
		return nil
	}
	fields := m.input.Fields()
	for _, key := range []string{"id", snake(noun) + "_id"} {
		if f := fields.ByName(protoreflect.Name(key)); f != nil && isKeyKind(f) && !f.IsList() {
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

// packageOf is the package of a method's service.
func packageOf(m *method) string {
	service := m.procedure[1:strings.LastIndexByte(m.procedure, '/')]
	return service[:max(0, strings.LastIndexByte(service, '.'))]
}

// batchOf returns the method that a getter's keys can be looked up with together: BatchGetUsers(ids), with the same kind of keys and
// the same objects, which have their key themselves.
func (b *builder) batchOf(g *getter, lists []*method) *batch {
	for _, m := range lists {
		name := m.procedure[strings.LastIndexByte(m.procedure, '/')+1:]
		noun, ok := strings.CutPrefix(name, "BatchGet")
		if !ok || strings.TrimSuffix(noun, "s") != g.noun || packageOf(m) != packageOf(g.call) ||
			m.result.Message().FullName() != g.call.result.Message().FullName() {
			continue
		}
		key := m.result.Message().Fields().ByName("id")
		params := m.input.Fields().ByName("ids")
		if key == nil || params == nil || !params.IsList() || params.Kind() != g.param.Kind() || key.Kind() != g.param.Kind() {
			continue
		}
		size := maxBatch
		if n := rulesOf(params).GetRepeated().GetMaxItems(); n > 0 {
			size = int(min(n, maxBatch))
		}
		return &batch{call: m, params: params, result: m.result, key: key, size: size}
	}
	return nil
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

// addReference gives an object what its field f refers to, if that is known.
func (b *builder) addReference(o *object, d protoreflect.MessageDescriptor, f protoreflect.FieldDescriptor, getters map[string][]*getter) {
	name, many := strings.CutSuffix(string(f.Name()), "_ids")
	if !many {
		var one bool
		if name, one = strings.CutSuffix(string(f.Name()), "_id"); !one {
			return
		}
	}
	g := find(getters[camel(name)], string(d.ParentFile().Package()))
	if g == nil || f.IsList() != many || f.IsMap() || f.Kind() != g.param.Kind() {
		return
	}
	l := &field{
		name: lowerFirst(camel(name)), call: g.call, list: many, link: &link{source: f, param: g.param, many: many, batch: g.batch},
		description: "What " + fieldName(f) + " refers to.",
	}
	if many {
		l.name += "s"
	}
	l.typeName = b.outputName(g.call.result)
	if o.fields[l.name] != nil || !isName(l.name) {
		return
	}
	for _, a := range b.arguments(g.call.input, g.param.Name()) {
		if strings.HasSuffix(a.typeText, "!") {
			return // it needs more than the key
		}
	}
	o.add(l)
}

// addList gives an object the list of what refers to it.
func (b *builder) addList(o *object, d protoreflect.MessageDescriptor, m *method) {
	name := m.procedure[strings.LastIndexByte(m.procedure, '/')+1:]
	noun, ok := strings.CutPrefix(name, "List")
	id := d.Fields().ByName("id")
	if !ok || id == nil || id.IsList() {
		return
	}
	param := m.input.Fields().ByName(protoreflect.Name(snake(string(d.Name())) + "_id"))
	if param == nil || param.IsList() || param.Kind() != id.Kind() || packageOf(m) != string(d.ParentFile().Package()) {
		return
	}
	f := &field{
		name: lowerFirst(noun), call: m, link: &link{source: id, param: param}, args: b.arguments(m.input, param.Name()),
		list: true, inner: true, typeName: b.outputName(m.result), description: "What " + noun + " lists for it.",
	}
	if o.fields[f.name] == nil && isName(f.name) {
		f.description = "The " + lowerFirst(noun) + " of it, a page at a time."
		o.add(f)
	}
}
