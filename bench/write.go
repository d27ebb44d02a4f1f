package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/nearside-dev/nearside/bench/internal/load"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
)

// write writes a row that is not there yet. The generator runs on the processors of those that it measures: the request is
// written as it goes over the wire, and all of the answer is read and looked at, but no message is made of it.
func write(c *load.Client, random *rand.Rand, id int64) error {
	w := writers.Get().(*writer)
	defer writers.Put(w)
	answer, err := c.CallEncoded(datav1connect.DataServiceTransactProcedure, w.encode(random, id))
	if err != nil {
		return err
	}
	return checkWritten(answer)
}

// writer is the memory of one request.
type writer struct{ out, put, entry, text []byte }

var writers = sync.Pool{New: func() any { return new(writer) }}

// Numbers of the fields that are written and read here; TestWriterSpeaksTheProtocol compares them.
const (
	transactDatabase, transactOperations          = 1, 2
	operationPut, putTable, putValues             = 2, 1, 2
	mapKey, mapValue, valueInteger, valueText     = 1, 2, 2, 4
	responseResults, responseAnswer, responseTold = 1, 2, 4
	answerBookmark, resultRowsAffected            = 1, 3
)

// encode returns the request of a row, which is valid until the next one.
func (w *writer) encode(random *rand.Rand, id int64) []byte {
	w.put = appendText(w.put[:0], putTable, table)
	w.value("id", valueInteger, nil, id)
	w.text = appendEmail(w.text[:0], id)
	w.value("email", valueText, w.text, 0)
	w.value("age", valueInteger, nil, random.Int64N(100))
	w.text = appendBio(w.text[:0], random)
	w.value("bio", valueText, w.text, 0)
	w.out = appendText(w.out[:0], transactDatabase, database)
	w.out = protowire.AppendTag(w.out, transactOperations, protowire.BytesType)
	w.out = protowire.AppendVarint(w.out, uint64(protowire.SizeTag(operationPut)+protowire.SizeBytes(len(w.put))))
	w.out = protowire.AppendTag(w.out, operationPut, protowire.BytesType)
	w.out = protowire.AppendBytes(w.out, w.put)
	return w.out
}

// value adds a column to w.put: a text, or a number.
func (w *writer) value(column string, kind protowire.Number, text []byte, number int64) {
	w.entry = appendText(w.entry[:0], mapKey, column)
	w.entry = protowire.AppendTag(w.entry, mapValue, protowire.BytesType)
	if kind == valueText {
		w.entry = protowire.AppendVarint(w.entry, uint64(protowire.SizeTag(kind)+protowire.SizeBytes(len(text))))
		w.entry = protowire.AppendBytes(protowire.AppendTag(w.entry, kind, protowire.BytesType), text)
	} else {
		w.entry = protowire.AppendVarint(w.entry, uint64(protowire.SizeTag(kind)+protowire.SizeVarint(uint64(number))))
		w.entry = protowire.AppendVarint(protowire.AppendTag(w.entry, kind, protowire.VarintType), uint64(number))
	}
	w.put = protowire.AppendBytes(protowire.AppendTag(w.put, putValues, protowire.BytesType), w.entry)
}

func appendText(b []byte, field protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), text)
}

// checkWritten returns an error unless an answer says that one row was written, in which version and with which bookmark.
func checkWritten(answer []byte) error {
	version, results, rows, bookmark := uint64(0), 0, uint64(0), 0
	err := fields(answer, func(field protowire.Number, number uint64, bytes []byte) error {
		switch field {
		case responseTold:
			version = number
		case responseResults:
			results++
			return fields(bytes, func(field protowire.Number, number uint64, _ []byte) error {
				if field == resultRowsAffected {
					rows += number
				}
				return nil
			})
		case responseAnswer:
			return fields(bytes, func(field protowire.Number, _ uint64, bytes []byte) error {
				if field == answerBookmark {
					bookmark = len(bytes)
				}
				return nil
			})
		default: // not looked at
		}
		return nil
	})
	if err == nil && (version == 0 || results != 1 || rows != 1 || bookmark == 0) {
		err = fmt.Errorf("a write is answered with version %d, %d results, %d rows and a bookmark of %d bytes",
			version, results, rows, bookmark)
	}
	return err
}

var errAnswer = errors.New("an answer that cannot be read")

// fields calls f for each field of a message.
func fields(message []byte, f func(field protowire.Number, number uint64, bytes []byte) error) error {
	for len(message) > 0 {
		field, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return errAnswer
		}
		message = message[n:]
		var number uint64
		var bytes []byte
		switch kind {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(message)
		case protowire.BytesType:
			bytes, n = protowire.ConsumeBytes(message)
		case protowire.Fixed32Type, protowire.Fixed64Type, protowire.StartGroupType, protowire.EndGroupType:
			n = protowire.ConsumeFieldValue(field, kind, message)
		}
		if n < 0 {
			return errAnswer
		}
		message = message[n:]
		if err := f(field, number, bytes); err != nil {
			return err
		}
	}
	return nil
}
