package server

import (
	"bufio"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"
)

const frameData = 0

// postBlock is a POST with a body of two bytes, as HPACK has it.
func postBlock(path string) []byte {
	b := append([]byte{0x83, 0x86, 0x04, byte(len(path))}, path...)
	return append(b, "\x01\x01h\x0f\x0d\x012"...) // :authority, content-length
}

// TestAnAnswerToAnUnreadBody: with HTTP/2 a short body is waited for before an answer that did not want it ends, so that its caller is
// not told to stop.
func TestAnAnswerToAnUnreadBody(t *testing.T) {
	answered := make(chan struct{}, 1)
	_, url := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnsupportedMediaType)
		answered <- struct{}{}
	}), Config{Name: "test"})
	for name, comes := range map[string]bool{"it comes": true, "it does not come": false} {
		t.Run(name, func(t *testing.T) {
			c := dialHTTP2(t, strings.TrimPrefix(url, "http://"))
			send(t, c, string(appendHTTP2Frame(nil, frameHeaders, flagEndHeaders, 1, postBlock("/"))))
			<-answered
			if comes {
				send(t, c, string(appendHTTP2Frame(nil, frameData, flagEnd, 1, []byte("{}"))))
			}
			r := bufio.NewReader(c)
			var status, reset, pinged bool
			for !pinged {
				var head [9]byte
				if _, err := io.ReadFull(r, head[:]); err != nil {
					t.Fatal(err)
				}
				length := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
				payload := make([]byte, length)
				if _, err := io.ReadFull(r, payload); err != nil {
					t.Fatal(err)
				}
				ours := binary.BigEndian.Uint32(head[5:]) == 1
				switch {
				case ours && head[3] == frameReset:
					reset = true
				case ours && (head[3] == frameHeaders || head[3] == frameData) && head[4]&flagEnd != 0:
					status = true
					// What comes before its answer is all that there is of the stream.
					send(t, c, string(appendHTTP2Frame(nil, framePing, 0, 0, make([]byte, 8))))
				case head[3] == framePing && head[4] != 0:
					pinged = true
				}
			}
			if !status || reset == comes {
				t.Errorf("answered: %v, told to stop: %v", status, reset)
			}
		})
	}
}
