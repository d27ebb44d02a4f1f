package business

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/nearside-dev/nearside/client"
	"github.com/nearside-dev/nearside/gen/nearside/business/v1/businessv1connect"
	"github.com/nearside-dev/nearside/internal/hotrpc"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// Hot returns the methods that a gateway in the same process can mostly answer at once, by their procedures: what they read is in its
// memory. get answers a GetRequest of the data API, for the caller and within the caller's limits, or not at all.
func Hot(get hotrpc.Method) map[string]hotrpc.Method {
	h := &hot{get: get}
	return map[string]hotrpc.Method{businessv1connect.UserServiceGetUserProcedure: h.getUser}
}

type hot struct {
	get     hotrpc.Method
	columns atomic.Pointer[hotColumns] // of the answer before: they are the same nearly always
}

// hotColumns are the columns of an answer.
type hotColumns struct {
	wire  []byte // what the answer begins with
	place []int8 // of each in userColumns, plus 1
}

// hotCall is the memory of one call.
type hotCall struct {
	request []byte
	inner   hotrpc.Answer
}

var hotCalls = sync.Pool{New: func() any { return new(hotCall) }}

// Numbers of fields, of GetRequest, GetResponse, their messages, GetUserResponse and User.
const (
	getDatabase, getTable, getKey = 1, 2, 3

	gotColumn, gotRow      = 1, 2
	columnName             = 1
	rowValue, rowVersion   = 1, 2
	keyValue               = 1
	valueInteger, valueStr = 2, 4

	responseUser                       = 1
	userID, userEmail, userName        = 1, 2, 3
	userCreated, userUpdated, userVers = 4, 5, 6
	timeSeconds, timeNanos             = 1, 2
)

// getPrefix is what each request for a user begins with.
var getPrefix = func() []byte {
	b := protowire.AppendString(protowire.AppendTag(nil, getDatabase, protowire.BytesType), Database)
	return protowire.AppendString(protowire.AppendTag(b, getTable, protowire.BytesType), tableUsers)
}()

// maxIDBytes is how long an id may be that is looked at here.
const maxIDBytes = 64

// getUser answers a GetUserRequest as users.GetUser does. It is a hotrpc.Method.
func (h *hot) getUser(p *identity.Principal, header http.Header, msg []byte, a *hotrpc.Answer) bool {
	id, ok := onlyText(msg)
	if !ok {
		return false
	}
	c, _ := hotCalls.Get().(*hotCall)
	defer hotCalls.Put(c)
	// The key's one value, from the inside out.
	value := 1 + protowire.SizeBytes(len(id))
	key := 1 + protowire.SizeBytes(value)
	c.request = append(c.request[:0], getPrefix...)
	b := c.request
	b = protowire.AppendVarint(protowire.AppendTag(b, getKey, protowire.BytesType), uint64(key))     // a length
	b = protowire.AppendVarint(protowire.AppendTag(b, keyValue, protowire.BytesType), uint64(value)) // a length
	b = protowire.AppendBytes(protowire.AppendTag(b, valueStr, protowire.BytesType), id)
	c.request, c.inner = b, hotrpc.Answer{Message: c.inner.Message[:0]}
	if !h.get(p, header, b, &c.inner) {
		return false
	}
	var row userRow
	if !row.parse(c.inner.Message, &h.columns) {
		return false
	}
	start := len(a.Message)
	a.Message = row.append(a.Message)
	a.Bookmark, a.Region, a.Source, a.StalenessMs = c.inner.Bookmark, c.inner.Region, c.inner.Source, c.inner.StalenessMs
	if row.version != 0 {
		a.Etag = []string{`"` + strconv.FormatUint(row.version, 10) + `"`}
	}
	if marks := header[bookmarkHeader]; len(marks) > 0 { // the caller gets back all that it knows
		session := client.NewSession(marks...)
		session.Add(c.inner.Bookmark...)
		a.Bookmark = []string{session.Bookmarks()}
	}
	return len(a.Message) > start
}

var bookmarkHeader = http.CanonicalHeaderKey(rpcheader.Bookmark)

// onlyText returns the text of a message that has one field, number 1, and no other.
func onlyText(msg []byte) (text []byte, ok bool) {
	number, wire, n := protowire.ConsumeTag(msg)
	if n < 0 || number != 1 || wire != protowire.BytesType {
		return nil, false
	}
	text, size := protowire.ConsumeBytes(msg[n:])
	return text, size > 0 && n+size == len(msg) && len(text) > 0 && len(text) <= maxIDBytes && utf8.Valid(text)
}

// userColumns are the columns of a user, in the order of userRow.texts and userRow.times.
var userColumns = [...]string{"id", "email", "name", "created_at", "updated_at"}

const firstTime = 3 // in userColumns

// userRow is a row of users as it is read from a GetResponse. Its texts are the message's.
type userRow struct {
	texts   [firstTime][]byte
	times   [len(userColumns) - firstTime]int64
	version uint64
}

// parse reads a GetResponse, with what is known of its columns. It reports false where there is no row, or something that userFrom has
// to look at.
func (u *userRow) parse(msg []byte, known *atomic.Pointer[hotColumns]) bool {
	columns := known.Load()
	if columns == nil || !bytes.HasPrefix(msg, columns.wire) {
		if columns = columnsOf(msg); columns == nil {
			return false
		}
		known.Store(columns)
	}
	msg = msg[len(columns.wire):]
	var row []byte
	for len(msg) > 0 {
		number, wire, n := protowire.ConsumeTag(msg)
		if n < 0 || wire != protowire.BytesType || number == gotColumn {
			return false
		}
		field, size := protowire.ConsumeBytes(msg[n:])
		if size < 0 {
			return false
		}
		msg = msg[n+size:]
		if number == gotRow { // the rest is where it is from, which the headers say
			if row != nil {
				return false
			}
			row = field
		}
	}
	return row != nil && u.parseRow(row, columns.place)
}

// columnsOf reads the columns that a GetResponse begins with; nil is not those of users.
func columnsOf(msg []byte) *hotColumns {
	c := &hotColumns{}
	var found [len(userColumns)]bool
	for rest := msg; ; {
		number, wire, n := protowire.ConsumeTag(rest)
		if n < 0 || number != gotColumn {
			c.wire = bytes.Clone(msg[:len(msg)-len(rest)])
			break
		}
		field, size := protowire.ConsumeBytes(rest[n:])
		if wire != protowire.BytesType || size < 0 {
			return nil
		}
		name, ok := firstText(field)
		if !ok {
			return nil
		}
		place := 0
		for i, want := range userColumns {
			if string(name) != want {
				continue
			}
			if found[i] {
				return nil // which one is meant?
			}
			place, found[i] = i+1, true
		}
		c.place = append(c.place, int8(place)) // there are five
		rest = rest[n+size:]
	}
	for _, there := range found {
		if !there {
			return nil
		}
	}
	return c
}

func firstText(field []byte) (text []byte, ok bool) {
	number, wire, n := protowire.ConsumeTag(field)
	if n < 0 || number != columnName || wire != protowire.BytesType {
		return nil, false
	}
	text, size := protowire.ConsumeBytes(field[n:])
	return text, size >= 0
}

func (u *userRow) parseRow(row []byte, place []int8) bool {
	at := 0
	for len(row) > 0 {
		number, wire, n := protowire.ConsumeTag(row)
		if n < 0 {
			return false
		}
		if number == rowVersion && wire == protowire.VarintType {
			v, size := protowire.ConsumeVarint(row[n:])
			if size < 0 {
				return false
			}
			u.version, row = v, row[n+size:]
			continue
		}
		field, size := protowire.ConsumeBytes(row[n:])
		if number != rowValue || wire != protowire.BytesType || size < 0 || at == len(place) {
			return false
		}
		row = row[n+size:]
		if i := int(place[at]) - 1; i >= 0 && !u.take(i, field) {
			return false
		}
		at++
	}
	return at == len(place)
}

// take takes the value of a column.
func (u *userRow) take(column int, field []byte) bool {
	number, wire, n := protowire.ConsumeTag(field)
	switch {
	case n < 0:
		return false
	case column < firstTime:
		text, size := protowire.ConsumeBytes(field[n:])
		u.texts[column] = text
		return number == valueStr && wire == protowire.BytesType && n+size == len(field) && utf8.Valid(text)
	default:
		v, size := protowire.ConsumeVarint(field[n:])
		u.times[column-firstTime] = int64(v) // so it was encoded
		return number == valueInteger && wire == protowire.VarintType && n+size == len(field)
	}
}

// append appends the row as a GetUserResponse.
func (u *userRow) append(dst []byte) []byte {
	dst = protowire.AppendTag(dst, responseUser, protowire.BytesType)
	start := len(dst)
	dst = append(dst, 0, 0) // its length, which is short mostly
	for i, text := range u.texts {
		if len(text) > 0 {
			dst = protowire.AppendBytes(protowire.AppendTag(dst, protowire.Number(userID+i), protowire.BytesType), text) // 1 to 3
		}
	}
	for i, t := range u.times {
		dst = appendTime(dst, protowire.Number(userCreated+i), t) // 4 and 5
	}
	if u.version != 0 {
		dst = protowire.AppendVarint(protowire.AppendTag(dst, userVers, protowire.VarintType), u.version)
	}
	size := len(dst) - start - 2
	if size >= 1<<7 && size < 1<<14 {
		binary.PutUvarint(dst[start:], uint64(size))
		return dst
	}
	var length [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(length[:], uint64(size)) // a length
	return slices.Concat(dst[:start], length[:n], dst[start+2:])
}

// appendTime appends a timestamp of nanoseconds since 1970.
func appendTime(dst []byte, number protowire.Number, nanos int64) []byte {
	seconds, rest := nanos/1e9, nanos%1e9
	if rest < 0 {
		seconds, rest = seconds-1, rest+1e9
	}
	size := 0
	if seconds != 0 {
		size += 1 + protowire.SizeVarint(uint64(seconds)) // so it is encoded
	}
	if rest != 0 {
		size += 1 + protowire.SizeVarint(uint64(rest)) // not below 0
	}
	dst = protowire.AppendVarint(protowire.AppendTag(dst, number, protowire.BytesType), uint64(size)) // a length
	if seconds != 0 {
		dst = protowire.AppendVarint(protowire.AppendTag(dst, timeSeconds, protowire.VarintType), uint64(seconds)) // as above
	}
	if rest != 0 {
		dst = protowire.AppendVarint(protowire.AppendTag(dst, timeNanos, protowire.VarintType), uint64(rest)) // as above
	}
	return dst
}
