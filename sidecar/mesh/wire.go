package mesh

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"strings"
)

// errAnswer is an answer that is not HTTP/1.1 as it should be.
var errAnswer = errors.New("malformed answer")

// answerHead is the head of an answer.
type answerHead struct {
	size    int // bytes of the head
	status  int
	length  int64 // of the body; -1 is not known
	chunked bool
	keep    bool // the connection
	lines   []byte
}

// What a header of an answer is to the one who passes it on.
const (
	linePasses = iota
	lineDrops
	lineLength
	lineEncoding
	lineConnection
)

var answerLines = map[string]int{
	"connection": lineConnection, "keep-alive": lineDrops, "proxy-connection": lineDrops, "proxy-authenticate": lineDrops,
	"te": lineDrops, "trailer": lineDrops, "upgrade": lineDrops, "date": lineDrops, // the listener has its own
	"x-request-id": lineDrops,                                         // and so here
	"alt-svc":      lineDrops, "strict-transport-security": lineDrops, // of the endpoint's own name
	"content-length": lineLength, "transfer-encoding": lineEncoding,
}

// parse looks at what has come of an answer; part is that more must come. lines are those that are passed on, each with its end.
func (h *answerHead) parse(in []byte) (part bool, err error) {
	end := bytes.Index(in, []byte("\r\n\r\n"))
	switch {
	case end > maxAnswerHeader, end < 0 && (len(in) > maxAnswerHeader || bytes.Contains(in, []byte("\n\n"))): // its lines end otherwise
		return false, errAnswer
	case end < 0:
		return true, nil
	}
	*h = answerHead{size: end + 4, length: -1, keep: true, lines: h.lines[:0]}
	line, rest, _ := bytes.Cut(in[:end], []byte("\r\n"))
	if len(line) < len("HTTP/1.1 200") || string(line[:7]) != "HTTP/1." || line[7] != '0' && line[7] != '1' || line[8] != ' ' ||
		len(line) > 12 && line[12] != ' ' || !isValue(line) {
		return false, errAnswer
	}
	h.keep = line[7] == '1'
	if h.status, err = strconv.Atoi(string(line[9:12])); err != nil || h.status < 100 {
		return false, errAnswer
	}
	var named [][]byte
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || !isToken(name) || !isValue(value) {
			return false, errAnswer
		}
		value = bytes.Trim(value, " \t")
		switch kindOf(name) {
		case lineConnection:
			for token := range bytes.SplitSeq(value, []byte(",")) {
				token = bytes.TrimSpace(token)
				h.keep = h.keep && !bytes.EqualFold(token, []byte("close"))
				named = append(named, token)
			}
		case lineLength:
			n, err := strconv.ParseUint(string(value), 10, 62)
			if err != nil || h.length >= 0 && h.length != int64(n) {
				return false, errAnswer
			}
			h.length = int64(n)
		case lineEncoding:
			if h.chunked || !bytes.EqualFold(value, []byte("chunked")) {
				return false, errAnswer
			}
			h.chunked = true
		case linePasses:
			h.lines = append(append(h.lines, line...), "\r\n"...)
		}
	}
	if len(named) > 0 {
		h.lines = without(h.lines, named)
	}
	switch {
	case h.chunked && h.length >= 0:
		return false, errAnswer // which one would count?
	case h.status == http.StatusNoContent || h.status == http.StatusNotModified || h.status < 200:
		h.length, h.chunked = 0, false
	case !h.chunked && h.length < 0:
		h.keep = false // it ends with the connection
	}
	return false, nil
}

// maxAnswerLine is the length of the longest name in answerLines.
const maxAnswerLine = len("strict-transport-security")

// kindOf returns what a header is, by its name in any case of letters.
func kindOf(name []byte) int {
	if len(name) > len(gatewaysOwn) && bytes.EqualFold(name[:len(gatewaysOwn)], []byte(gatewaysOwn)) {
		return lineDrops
	}
	if len(name) > maxAnswerLine {
		return linePasses
	}
	var lower [maxAnswerLine]byte
	for i, b := range name {
		if 'A' <= b && b <= 'Z' {
			b += 'a' - 'A'
		}
		lower[i] = b
	}
	return answerLines[string(lower[:len(name)])]
}

// without returns lines but for those of some names.
func without(lines []byte, names [][]byte) []byte {
	var out []byte
	for line := range bytes.Lines(lines) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		drop := false
		for _, n := range names {
			drop = drop || bytes.EqualFold(n, name)
		}
		if !drop {
			out = append(out, line...)
		}
	}
	return out
}

func isToken(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return len(b) > 0
}

// isValue reports whether a header's value has nothing in it that could end it.
func isValue(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// chunks takes chunked bodies apart.
type chunks struct {
	left int64 // of the present chunk
	skip int   // of the line's end after a chunk
	last bool  // the last chunk was there: lines up to an empty one follow
	done bool
	size int // bytes of trailers
}

// next returns the data at the beginning of in, and how many bytes of in were used up; 0 of both is that more must come.
func (c *chunks) next(in []byte) (data []byte, used int, err error) {
	for !c.done {
		switch {
		case c.left > 0:
			n := min(c.left, int64(len(in)-used))
			if n == 0 {
				return nil, used, nil
			}
			data, used, c.left = in[used:used+int(n)], used+int(n), c.left-n
			if c.left == 0 {
				c.skip = 2
			}
			return data, used, nil
		case c.skip > 0:
			if used == len(in) {
				return nil, used, nil
			}
			if in[used] != "\r\n"[2-c.skip] {
				return nil, used, errAnswer
			}
			used++
			c.skip--
		default:
			end := bytes.Index(in[used:], []byte("\r\n"))
			if end < 0 {
				if len(in)-used > 256 {
					return nil, used, errAnswer
				}
				return nil, used, nil
			}
			line := in[used : used+end]
			used += end + 2
			if err := c.head(line); err != nil {
				return nil, used, err
			}
		}
	}
	return nil, used, nil
}

// head reads the line before a chunk, or one of those after the last.
func (c *chunks) head(line []byte) error {
	if c.last {
		if c.size += len(line); c.size > maxAnswerHeader {
			return errAnswer
		}
		c.done = len(line) == 0
		return nil
	}
	size, _, _ := bytes.Cut(line, []byte(";"))
	n, err := strconv.ParseUint(string(bytes.TrimRight(size, " \t")), 16, 62)
	if err != nil || len(size) == 0 || size[0] == '+' {
		return errAnswer
	}
	c.left, c.last = int64(n), n == 0
	return nil
}
