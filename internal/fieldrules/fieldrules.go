// Package fieldrules checks requests to services that the mesh was not built with against the buf.validate rules in their descriptors.
// The registrar compiles them, so that rules which nobody could check are refused; gateways check what comes before it goes on.
//
// Methods whose requests have no rule, in no message within them, have no Rules here: nothing of theirs is decoded.
package fieldrules

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/servicedesc"
)

const (
	// MaxBytes is how large a message may be that is checked: decoded it takes up to a hundred times as much.
	MaxBytes = 4 << 20
	// largeBytes is above what only so many messages are checked at a time as there are processors.
	largeBytes = 64 << 10
	// allBytes is up to what a caller is told of all rules that a message breaks, and not of the first alone.
	allBytes = 16 << 10
	// maxLarge bounds what the large ones take of memory.
	maxLarge = 8
)

// MaxTime is how long the rules of one message may take. It is looked at between two rules, and maxCost bounds each of them.
const MaxTime = time.Second

// large are the places of large messages.
var large = make(chan struct{}, min(maxLarge, max(2, runtime.GOMAXPROCS(0))))

// Service has the rules of a service's requests. It may be used concurrently.
type Service struct {
	methods map[string]*Method
	types   *dynamicpb.Types

	once sync.Once // what follows is set with it
	err  error
}

// Method has the rules of a method's requests.
type Method struct {
	service *Service
	input   protoreflect.MessageDescriptor

	validator protovalidate.Validator
	json      protojson.UnmarshalOptions
	costly    []costly
	cheap     int              // a message that is not longer costs no rule too much
	fields    map[string]sizes // that messages may have, with nothing in them
}

// Of looks for rules; nil is that there are none. They are compiled when they are needed, or by Compile.
func Of(d *servicedesc.Service) *Service {
	s := &Service{methods: make(map[string]*Method)}
	for _, m := range d.Methods {
		if len(reach(m.Input)) > 0 {
			s.methods[m.Name] = &Method{service: s, input: m.Input}
		}
	}
	if len(s.methods) == 0 {
		return nil
	}
	s.types = dynamicpb.NewTypes(d.Registry)
	return s
}

// Method returns the rules of a method's requests; nil where there are none.
func (s *Service) Method(name string) *Method {
	if s == nil {
		return nil
	}
	return s.methods[name]
}

// Methods returns how many methods have rules.
func (s *Service) Methods() int {
	if s == nil {
		return 0
	}
	return len(s.methods)
}

// Compile makes the rules ready, once. The error says which field's, or which message's, are none.
func (s *Service) Compile() error {
	if s == nil {
		return nil
	}
	s.once.Do(func() { s.err = s.compile() })
	return s.err
}

// Check returns what is wrong with a message of a method's requests, encoded with a codec, proto or json: FIELD_INVALID with the
// fields, REQUEST_TOO_LARGE, or what the error is of a message that cannot be read. Any other error is ours or the service's: a rule
// that cannot be evaluated.
func (m *Method) Check(ctx context.Context, codec string, message []byte) error {
	if err := m.service.Compile(); err != nil {
		return err
	}
	if len(message) > MaxBytes {
		return TooLarge(m.input)
	}
	if len(message) > largeBytes {
		select {
		case large <- struct{}{}:
			defer func() { <-large }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	decoded := dynamicpb.NewMessage(m.input)
	if err := m.decode(codec, message, decoded); err != nil {
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("the request is no %s: %s", m.input.FullName(), plain(err)))
	}
	if len(message) > m.cheap {
		if err := m.affordable(decoded, len(message)); err != nil {
			return err
		}
	}
	var options []protovalidate.ValidationOption
	if len(message) > allBytes {
		options = append(options, protovalidate.WithFailFast())
	}
	late := false
	if len(message) > largeBytes {
		ends := time.Now().Add(MaxTime)
		options = append(options, protovalidate.WithFilter(protovalidate.FilterFunc(
			func(protoreflect.Message, protoreflect.Descriptor) bool {
				late = late || time.Now().After(ends)
				return !late
			})))
	}
	err := rpcerr.Broken(m.validator.Validate(decoded, options...))
	if err == nil && late {
		return TooLarge(m.input).With("seconds", strconv.Itoa(int(MaxTime.Seconds())))
	}
	return err
}

// TooLarge is the error of a message that is too large to be checked.
func TooLarge(input protoreflect.MessageDescriptor) *rpcerr.Error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE, "the message is too large for the rules of %s to be checked",
		input.FullName()).With("limit", strconv.Itoa(MaxBytes))
}

// Input returns the type of the requests.
func (m *Method) Input() protoreflect.MessageDescriptor { return m.input }

// plain is the text of an error of protobuf's, which has spaces of several kinds so that nobody relies on it.
func plain(err error) string { return strings.ReplaceAll(err.Error(), "\u00a0", " ") }

var errCodec = errors.New("its codec is not known")

func (m *Method) decode(codec string, message []byte, into *dynamicpb.Message) error {
	switch codec {
	case "proto":
		return proto.UnmarshalOptions{AllowPartial: true, Resolver: m.service.types}.Unmarshal(message, into)
	case "json":
		return m.json.Unmarshal(message, into)
	default:
		return errCodec
	}
}
