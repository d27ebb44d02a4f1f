package graphql

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// batchGroup is what tasks look up with one method that takes several keys.
type batchGroup struct {
	batch   *batch
	keys    []protoreflect.Value
	entries []*callEntry // each with batch.size keys
	found   map[any]protoreflect.Message
}

// planBatches adds to a wave the calls of the tasks that can be looked up together, and gives them what is to be done when those are
// answered. Each distinct key is asked for once.
func (o *operation) planBatches(tasks []*task, finish []func(), wave *[]*callEntry) {
	groups := make(map[string]*batchGroup)
	seen := make(map[string]map[any]int) // the place of each key in its group
	for i, t := range tasks {
		if finish[i] != nil {
			continue
		}
		b := t.selection.field.link.batch
		g := groups[b.call.procedure]
		if g == nil {
			g = &batchGroup{batch: b}
			groups[b.call.procedure], seen[b.call.procedure] = g, make(map[any]int)
		}
		places := seen[b.call.procedure]
		for _, key := range t.keys {
			if _, ok := places[key.Interface()]; !ok {
				places[key.Interface()] = len(g.keys)
				g.keys = append(g.keys, key)
			}
		}
		finish[i] = func() { o.resolveBatch(t, g, places) }
	}
	for _, t := range tasks { // in an order that does not change
		l := t.selection.field.link
		if l == nil || l.batch == nil || t.request != nil {
			continue
		}
		g := groups[l.batch.call.procedure]
		if g.entries != nil {
			continue
		}
		for keys := range slices.Chunk(g.keys, g.batch.size) {
			req := newMessage(g.batch.call.input)
			list := req.ProtoReflect().Mutable(g.batch.params).List()
			for _, k := range keys {
				list.Append(k)
			}
			g.entries = append(g.entries, o.entry(g.batch.call, req, "", wave))
		}
	}
}

// resolveBatch puts what a batch found in the place of a task. A key that nothing was found for is null.
func (o *operation) resolveBatch(t *task, g *batchGroup, places map[any]int) {
	if g.found == nil {
		g.found = make(map[any]protoreflect.Message)
		for _, e := range g.entries {
			g.take(e.answer)
		}
	}
	f := t.selection.field
	values := make([]any, len(t.keys))
	for i, key := range t.keys {
		at := t.path
		if f.link.many {
			at = at.with(i)
		}
		if e := g.entries[places[key.Interface()]/g.batch.size]; e.err != nil {
			o.fail(t.selection, at, e.err)
		} else if m := g.found[key.Interface()]; m != nil {
			values[i], _ = o.messageValue(t.selection, f.typeName, m, at)
		}
	}
	if f.link.many {
		t.into.value = values
	} else {
		t.into.value = values[0]
	}
}

// take notes the objects of an answer by their keys.
func (g *batchGroup) take(answer proto.Message) {
	if answer == nil {
		return
	}
	m := answer.ProtoReflect()
	result := own(m, g.batch.result)
	if result == nil {
		return
	}
	list := m.Get(result).List()
	for i := range list.Len() {
		object := list.Get(i).Message()
		if key := own(object, g.batch.key); key != nil {
			g.found[object.Get(key).Interface()] = object
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
