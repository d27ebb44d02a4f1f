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
	long := bytes.Repeat([]byte("x"), 300)
	messages := [][]byte{[]byte("ping"), nil, long}
	for _, test := range []struct {
		buffer int
		want   []int // sizes of what is read
	}{
		{1024, []int{9, 5, 305}},
		{128, []int{9, 5, 128, 128, 49}},
		{4, []int{4, 4, 1, 4, 1, 4, 4}},
		{1, []int{1, 1, 1, 1, 1}},
	} {
		in, out := io.Pipe()
		go func() {
			for _, message := range messages {
				e := envelope(message)
				_, _ = out.Write(e[:envelopePrefix])
				if len(message) > 0 {
					_, _ = out.Write(e[envelopePrefix:])
				}
			}
			_ = out.Close()
		}()
		r := &envelopeReader{ReadCloser: in}
		b := make([]byte, test.buffer)
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
		if diff := cmp.Diff(test.want, sizes[:min(len(test.want), len(sizes))]); diff != "" {
			t.Errorf("buffer of %d: sizes of what was read (-want +got):\n%s", test.buffer, diff)
		}
		var want []byte
		for _, message := range messages {
			want = append(want, envelope(message)...)
		}
		if !bytes.Equal(all, want) {
			t.Errorf("buffer of %d: read %x, written was %x", test.buffer, all, want)
		}
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
