package httpclient

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func envelope(message []byte) []byte {
	return append([]byte{0, 0, 0, byte(len(message) >> 8), byte(len(message))}, message...)
}

func TestAMessageIsReadInOnePiece(t *testing.T) {
	in, out := io.Pipe()
	long := bytes.Repeat([]byte("x"), 300)
	go func() {
		for _, message := range [][]byte{[]byte("ping"), nil, long} {
			e := envelope(message)
			_, _ = out.Write(e[:envelopePrefix])
			if len(message) > 0 {
				_, _ = out.Write(e[envelopePrefix:])
			}
		}
		_ = out.Close()
	}()
	r := &envelopeReader{ReadCloser: in}
	b := make([]byte, 128)
	var sizes []int
	var all []byte
	for {
		n, err := r.Read(b)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		sizes, all = append(sizes, n), append(all, b[:n]...)
	}
	if diff := cmp.Diff([]int{9, 5, 128, 128, 49}, sizes); diff != "" {
		t.Errorf("sizes of what was read (-want +got):\n%s", diff)
	}
	if want := bytes.Join([][]byte{envelope([]byte("ping")), envelope(nil), envelope(long)}, nil); !bytes.Equal(all, want) {
		t.Errorf("read %x, written was %x", all, want)
	}
}

func TestAStreamThatEndsInsideAMessageIsAnError(t *testing.T) {
	for _, cut := range []int{1, envelopePrefix, envelopePrefix + 2} {
		whole := envelope([]byte("ping"))
		_, err := io.ReadAll(&envelopeReader{ReadCloser: io.NopCloser(bytes.NewReader(whole[:cut]))})
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d bytes: %v", cut, err)
		}
	}
}
