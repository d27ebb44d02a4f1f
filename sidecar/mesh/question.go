package mesh

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/nearside-dev/nearside/internal/identity"
)

// framing is how a protocol puts a message into a request and its answer.
type framing uint8

const (
	framingNone    framing = iota // not one that is known
	framingConnect                // the message alone
	framingGRPC                   // an envelope, and trailers
	framingWeb                    // an envelope, and one for the trailers
	framingText                   // that in base64
)

// The content types, up to their codec.
const (
	typeGRPC = "application/grpc"
	typeWeb  = "application/grpc-web"
	typeText = "application/grpc-web-text"
)

// framingOf reads a content type, in the form in which clients send it: any other has no answer that is kept.
func framingOf(kind string) (f framing, codec string) {
	for _, of := range []struct {
		prefix string
		framing
	}{{typeText, framingText}, {typeWeb, framingWeb}, {typeGRPC, framingGRPC}} {
		rest, ok := strings.CutPrefix(kind, of.prefix)
		switch {
		case !ok:
			continue
		case rest == "":
			return of.framing, "proto"
		case rest[0] == '+':
			return of.framing, rest[1:]
		default:
			return framingNone, ""
		}
	}
	if codec, ok := strings.CutPrefix(kind, "application/"); ok {
		return framingConnect, codec
	}
	return framingNone, ""
}

// envelopeHead is the length of what stands before a message in an envelope: flags, and the length of the message.
const envelopeHead = 5

// The flags of an envelope.
const (
	flagCompressed = 1
	flagTrailers   = 0x80 // of gRPC-Web: it has the trailers
)

// cutEnvelope returns the first envelope of b, and what follows it.
func cutEnvelope(b []byte) (flags byte, message, rest []byte, ok bool) {
	if len(b) < envelopeHead {
		return 0, nil, nil, false
	}
	size := uint64(binary.BigEndian.Uint32(b[1:envelopeHead]))
	if size > uint64(len(b)-envelopeHead) {
		return 0, nil, nil, false
	}
	end := envelopeHead + int(size)
	return b[0], b[envelopeHead:end], b[end:], true
}

// decodeText decodes the base64 of gRPC-Web: pieces one after the other, each with its own padding.
func decodeText(text []byte) ([]byte, bool) {
	out := make([]byte, 0, base64.StdEncoding.DecodedLen(len(text)))
	for len(text) > 0 {
		end := len(text)
		for at := 3; at < len(text); at += 4 {
			if text[at] == '=' {
				end = at + 1
				break
			}
		}
		var err error
		if out, err = base64.StdEncoding.AppendDecode(out, text[:end]); err != nil {
			return nil, false
		}
		text = text[end:]
	}
	return out, true
}

// inflate returns what was compressed, of the encodings that are known and up to maxKeptMessage.
func inflate(encoding string, b []byte) ([]byte, bool) {
	switch encoding {
	case "", "identity":
		return b, true
	case "gzip":
		r, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, false
		}
		out, err := io.ReadAll(io.LimitReader(r, maxKeptMessage+1))
		return out, err == nil && len(out) <= maxKeptMessage
	default:
		return nil, false
	}
}

// messageOf returns the message of a POST's body, without its compression; ok is false where there is none, or several.
func (f framing) messageOf(h http.Header, body []byte) (message []byte, ok bool) {
	switch f {
	case framingConnect:
		return inflate(strings.Join(h["Content-Encoding"], ","), body)
	case framingText:
		if body, ok = decodeText(body); !ok {
			return nil, false
		}
	case framingGRPC, framingWeb:
	default:
		return nil, false
	}
	flags, message, rest, ok := cutEnvelope(body)
	if !ok || flags&^flagCompressed != 0 || len(rest) > 0 || len(h["Content-Encoding"]) > 0 {
		return nil, false
	}
	if flags&flagCompressed == 0 {
		return message, true
	}
	encoding := strings.Join(h["Grpc-Encoding"], ",")
	message, ok = inflate(encoding, message)
	return message, ok && encoding != ""
}

// question is a request whose answer may be kept.
type question struct {
	rule    *rule
	framing framing
	key     [sha256.Size]byte
	body    []byte // of a POST
}

// ask reads what there is to know of a request; ok is false where its answer is none to keep. body is the request's, of a POST.
func (r *Router) ask(req *http.Request, p *identity.Principal, m *route, body []byte) (q question, ok bool) {
	rule := m.rule
	if req.Header["Cookie"] != nil || p.Kind == identity.Anonymous && req.Header[authorization] != nil {
		return q, false // what the service is told is of this caller alone
	}
	q = question{rule: rule, body: body}
	var codec string
	var message []byte
	switch req.Method {
	case http.MethodPost:
		q.framing, codec = framingOf(one(req.Header, "Content-Type"))
		if message, ok = q.framing.messageOf(req.Header, body); !ok {
			return q, false
		}
	case http.MethodGet:
		q.framing = framingConnect
		query, err := url.ParseQuery(req.URL.RawQuery)
		if err != nil || repeated(query) != "" || query.Get("compression") != "" {
			return q, false // the service may read it in another way
		}
		codec = query.Get("encoding")
		message = []byte(query.Get("message"))
		if query.Get("base64") == "1" {
			text, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(query.Get("message"), "="))
			if err != nil {
				return q, false
			}
			message = text
		}
	default:
		return q, false
	}
	if codec != "proto" && codec != "json" || len(message) > maxKeptMessage {
		return q, false
	}
	if message, ok = rule.counts(codec, message); !ok {
		return q, false // the service says what is wrong with it
	}
	h := sha256.New()
	part := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	part([]byte(m.procedure))
	part(binary.BigEndian.AppendUint64(nil, uint64(rule.registered)))
	part([]byte{byte(q.framing)}) // what is kept is the answer as it was framed
	part([]byte(codec))
	part([]byte(strings.Join(req.Header["Accept-Encoding"], ",")))
	if q.framing != framingConnect {
		part([]byte(strings.Join(req.Header["Grpc-Accept-Encoding"], ",")))
	}
	if !rule.public {
		part([]byte(p.String()))
		for _, role := range p.Roles {
			part([]byte(role))
		}
	}
	part(message)
	h.Sum(q.key[:0])
	return q, true
}

// counts returns what of a message its answer depends on.
func (u *rule) counts(codec string, message []byte) ([]byte, bool) {
	if len(u.input) == 0 {
		return message, true
	}
	whole, part := u.message.New(), u.message.New()
	var err error
	if codec == "json" {
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(message, whole.Interface())
	} else {
		err = proto.Unmarshal(message, whole.Interface())
	}
	if err != nil {
		return nil, false
	}
	for _, path := range u.input {
		path.Copy(part, whole)
	}
	key, err := proto.MarshalOptions{Deterministic: true}.Marshal(part.Interface())
	return key, err == nil
}
