package hotrpc

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nearside-dev/nearside/internal/identity"
)

// observer counts as the real one does.
type observer struct{ begun, answered, passed, failed int }

func (o *observer) Begin()                 { o.begun++ }
func (o *observer) Answered(time.Duration) { o.answered++ }
func (o *observer) Passed()                { o.passed++ }

// newHandler returns a handler whose method answers "yes" with an echo, waits for nothing and panics for "panic", and whose
// general handler says what it read.
func newHandler(o *observer, logs io.Writer) http.Handler {
	return NewHandler(Options{
		Method: func(_ *identity.Principal, _ http.Header, msg []byte, a *Answer) bool {
			a.Message = append(a.Message, "half an answer"...)
			if string(msg) == "panic" {
				panic("a secret")
			}
			if !bytes.HasPrefix(msg, []byte("yes")) {
				return false
			}
			a.Message = append(a.Message[:0], msg...)
			a.Bookmark, a.Region, a.Source, a.StalenessMs = []string{"b"}, []string{"r"}, []string{"s"}, 100_000
			return true
		},
		General: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			_, limited := r.Context().Deadline()
			w.Header().Set("General", string(body))
			if err != nil {
				w.Header().Set("Error", err.Error())
			}
			if limited {
				w.Header().Set("Limited", "yes")
			}
		}),
		Logger: slog.New(slog.NewTextHandler(logs, nil)), Metrics: o,
	})
}

func serve(h http.Handler, body io.Reader, length int64, header ...string) (string, http.Header) {
	r := httptest.NewRequest(http.MethodPost, "/p", body)
	r.ContentLength = length
	r.Header.Set("Content-Type", "application/proto")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Body.String(), w.Header()
}

func TestAnswer(t *testing.T) {
	o := &observer{}
	body, header := serve(newHandler(o, io.Discard), strings.NewReader("yes"), 3)
	want := http.Header{
		"Content-Type": {"application/proto"}, "Accept-Encoding": {"gzip,zstd"}, "Nearside-Bookmark": {"b"}, "Nearside-Region": {"r"},
		"Nearside-Source": {"s"}, "Nearside-Staleness-Ms": {"100000"},
	}
	if diff := cmp.Diff(want, header); diff != "" || body != "yes" {
		t.Errorf("body %q, headers (-want +got):\n%s", body, diff)
	}
	long := "yes" + strings.Repeat("x", 5000)
	body, header = serve(newHandler(o, io.Discard), strings.NewReader(long), 5003, "Connect-Timeout-Ms", "60000")
	if body != long || header.Get("Content-Length") != "5003" {
		t.Errorf("%d bytes, headers %v", len(body), header)
	}
	if (*o != observer{begun: 2, answered: 2}) {
		t.Errorf("counted %+v", *o)
	}
}

func TestGeneralHandlerGetsTheWholeCall(t *testing.T) {
	cut := errors.New("connection reset")
	tests := []struct {
		name           string
		body           io.Reader
		length         int64
		header         []string
		want, err, log string
		looked         bool
	}{
		{name: "no answer", body: strings.NewReader("no"), length: 2, want: "no", looked: true},
		{name: "panic", body: strings.NewReader("panic"), length: 5, want: "panic", log: "a secret", looked: true},
		{
			name: "cut off", body: io.MultiReader(strings.NewReader("ye"), &failing{cut}), length: 4, want: "ye", err: cut.Error(), looked: true,
		},
		{
			name: "long answer to one who takes compressed ones", body: strings.NewReader("yes" + strings.Repeat("x", 2000)), length: 2003,
			header: []string{"Accept-Encoding", "gzip"}, want: "yes" + strings.Repeat("x", 2000), looked: true,
		},
		{name: "large", body: strings.NewReader("yes"), length: MaxMessageBytes + 1, want: "yes"},
		{name: "unknown length", body: strings.NewReader("yes"), length: -1, want: "yes"},
	}
	for _, tt := range tests {
		var logs bytes.Buffer
		o := &observer{}
		body, header := serve(newHandler(o, &logs), tt.body, tt.length, tt.header...)
		want := http.Header{"General": {tt.want}}
		if tt.err != "" {
			want.Set("Error", tt.err)
		}
		if diff := cmp.Diff(want, header); diff != "" || body != "" {
			t.Errorf("%s: body %q, headers (-want +got):\n%s", tt.name, body, diff)
		}
		if !strings.Contains(logs.String(), tt.log) || tt.log == "" && logs.Len() > 0 {
			t.Errorf("%s: log %q", tt.name, &logs)
		}
		counted := observer{}
		if tt.looked {
			counted = observer{begun: 1, passed: 1}
		}
		if *o != counted {
			t.Errorf("%s: counted %+v", tt.name, *o)
		}
	}
}

// A timeout runs from the call's begin, whoever answers it in the end.
func TestTimeoutIsNotBegunAgain(t *testing.T) {
	_, header := serve(newHandler(&observer{}, io.Discard), strings.NewReader("no"), 2, "Connect-Timeout-Ms", "60000")
	if header.Get("Limited") != "yes" {
		t.Error("the general handler has no deadline")
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func BenchmarkHandler(b *testing.B) {
	text := []string{"text"}
	h := NewHandler(Options{
		Method: func(_ *identity.Principal, _ http.Header, msg []byte, a *Answer) bool {
			a.Message = append(a.Message, msg...)
			a.Bookmark, a.Region, a.Source, a.StalenessMs = text, text, text, 100
			return true
		},
		General: http.NotFoundHandler(), Logger: slog.New(slog.DiscardHandler), Metrics: &observer{},
	})
	r := httptest.NewRequest(http.MethodPost, "/p", nil)
	r.Header.Set("Content-Type", "application/proto")
	r.ContentLength = 3
	w := &nowhere{header: make(http.Header)}
	body := strings.NewReader("yes")
	r.Body = io.NopCloser(body)
	b.ReportAllocs()
	for b.Loop() {
		body.Reset("yes")
		h.ServeHTTP(w, r)
	}
}

type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header         { return n.header }
func (n *nowhere) WriteHeader(int)             {}
func (n *nowhere) Write(b []byte) (int, error) { return len(b), nil }
