package graphql

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// batchGroup is what tasks look up with one method that takes several keys. It lasts as long as its operation: what was looked up is
// not asked for again.
type batchGroup struct {
	batch *batch
	base  []byte // the request without keys
	keys  map[any]*batchKey
	fresh []protoreflect.Value // keys that no call has asked for
}

// batchKey is a key that was looked up, or is to be.
type batchKey struct {
	entry *callEntry
	found protoreflect.Message // the object, or the list; nil where there is none
}

// planBatches adds to a wave the calls of the tasks that can be looked up together, and gives them what is to be done when those are
// answered. Each distinct key is asked for once.
func (o *operation) planBatches(tasks []*task, finish []func(), wave *[]*callEntry) {
	var asking []*batchGroup // in an order that does not change
	for i, t := range tasks {
		if finish[i] != nil {
			continue
		}
		g := o.group(t.selection)
		for _, key := range t.keys {
			if g.keys[key.Interface()] != nil {
				continue
			}
			g.keys[key.Interface()] = &batchKey{}
			if len(g.fresh) == 0 {
				asking = append(asking, g)
			}
			g.fresh = append(g.fresh, key)
		}
		finish[i] = func() { o.resolveBatch(t, g) }
	}
	for _, g := range asking {
		for keys := range slices.Chunk(g.fresh, g.batch.size) {
			e := &callEntry{method: g.batch.call, request: newMessage(g.batch.call.input)}
			m := e.request.ProtoReflect()
			if err := proto.Unmarshal(g.base, e.request); err != nil { // never: it was made of one
				e.err = err
			}
			list := m.Mutable(g.batch.params).List()
			for _, k := range keys {
				list.Append(k)
				g.keys[k.Interface()].entry = e
			}
			*wave = append(*wave, e)
		}
		g.fresh = nil
	}
}

// group returns what a selection's link is looked up with.
func (o *operation) group(s *selection) *batchGroup {
	t := o.togetherOf(s)
	g := o.groups[t.id]
	if g == nil {
		g = &batchGroup{batch: s.field.link.batch, base: t.base, keys: make(map[any]*batchKey)}
		o.groups[t.id] = g
	}
	return g
}

// resolveBatch puts what a batch found in the place of a task. A key that nothing was found for is null, or an empty list.
func (o *operation) resolveBatch(t *task, g *batchGroup) {
	f := t.selection.field
	for _, key := range t.keys {
		e := g.keys[key.Interface()].entry
		g.take(e)
		if e.err != nil && single(e.err) {
			// Who may not ask for several at a time, or whose service cannot yet, asks for one after the other.
			t.single = true
			o.next = append(o.next, t)
			return
		}
	}
	if g.batch.list != nil {
		o.resolveList(t, g.keys[t.keys[0].Interface()])
		return
	}
	values := make([]any, len(t.keys))
	for i, key := range t.keys {
		at := t.path
		if f.link.many {
			at = at.with(i)
		}
		switch k := g.keys[key.Interface()]; {
		case k.entry.err != nil:
			o.fail(t.selection, at, k.entry.err)
		case k.found != nil:
			values[i], _ = o.messageValue(t.selection, f.typeName, k.found, at)
		}
	}
	if f.link.many {
		t.into.value = values
	} else {
		t.into.value = values[0]
	}
}

func (o *operation) resolveList(t *task, k *batchKey) {
	switch f := t.selection.field; {
	case k.entry.err != nil:
		o.fail(t.selection, t.path, k.entry.err)
	case k.found == nil:
		t.into.value = []any{}
	default:
		t.into.value, _ = o.fieldValue(t.selection, f, f.link.batch.list, k.found, t.path)
	}
}

// single reports whether a call for several keys failed where calls for one may not.
func single(err error) bool {
	e, ok := errors.AsType[*callError](err)
	return ok && (e.code == connect.CodePermissionDenied || e.code == connect.CodeUnimplemented)
}

// take notes the objects of an answer, or the lists, by their keys.
func (g *batchGroup) take(e *callEntry) {
	if e.answer == nil || e.taken {
		return
	}
	e.taken = true
	m := e.answer.ProtoReflect()
	result := own(m, g.batch.result)
	if result == nil {
		return
	}
	list := m.Get(result).List()
	for i := range list.Len() {
		object := list.Get(i).Message()
		if key := own(object, g.batch.key); key != nil {
			if k := g.keys[object.Get(key).Interface()]; k != nil && k.entry == e {
				k.found = object
			}
		}
	}
}

// sortedKeys are the keys of a map in order.
func sortedKeys(m protoreflect.Map) []protoreflect.MapKey {
	keys := make([]protoreflect.MapKey, 0, m.Len())
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int {
		switch x := a.Interface().(type) {
		case int32:
			return cmp.Compare(int64(x), b.Int())
		case int64:
			return cmp.Compare(x, b.Int())
		case uint32:
			return cmp.Compare(uint64(x), b.Uint())
		case uint64:
			return cmp.Compare(x, b.Uint())
		default:
			return cmp.Compare(a.String(), b.String())
		}
	})
	return keys
}

// maxKeyBytes is how long an idempotency key may be.
const maxKeyBytes = 255

// derivedKey is the idempotency key of one of an operation's several fields: another request under the same key would be refused.
func derivedKey(key, field string) string {
	if derived := key + "/" + field; len(derived) <= maxKeyBytes {
		return derived
	}
	sum := sha256.Sum256([]byte(key + "/" + field))
	return hex.EncodeToString(sum[:])
}
