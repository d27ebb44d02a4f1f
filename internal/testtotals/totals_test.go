package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTotals(t *testing.T) {
	const start = `{"Action":"start","Package":"p"}` + "\n"
	tests := []struct {
		name   string
		strict bool
		in     string
		want   string
	}{
		{
			name: "subtests count, their parent does not",
			in: start + `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/x"}
{"Action":"run","Package":"p","Test":"A/y/z"}
{"Action":"pass","Package":"p","Test":"A/x"}
{"Action":"skip","Package":"p","Test":"A/y/z"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"B"}
{"Action":"pass","Package":"p","Test":"B"}
{"Action":"pass","Package":"p","Elapsed":1.25}
`,
			want: "ok    p 1.2s\n2 passed, 0 failed, 1 skipped\n",
		},
		{
			name: "a failed subtest is shown with what its parent printed",
			in: start + `{"Action":"run","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"A","Output":"seed 7\n"}
{"Action":"run","Package":"p","Test":"A/x"}
{"Action":"output","Package":"p","Test":"A/x","Output":"got 1, want 2\n"}
{"Action":"fail","Package":"p","Test":"A/x"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"B"}
{"Action":"output","Package":"p","Test":"B","Output":"quiet\n"}
{"Action":"pass","Package":"p","Test":"B"}
{"Action":"fail","Package":"p"}
`,
			want: "FAIL  p 0.0s\nseed 7\ngot 1, want 2\n1 passed, 1 failed, 0 skipped\n",
		},
		{
			name: "a parent that fails by itself is a failure of its own",
			in: start + `{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/x"}
{"Action":"pass","Package":"p","Test":"A/x"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}
`,
			want: "FAIL  p 0.0s\n1 passed, 1 failed, 0 skipped\n",
		},
		{
			name: "a panic fails the test that was running",
			in: start + `{"Action":"run","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"A","Output":"panic: no\n"}
{"Action":"fail","Package":"p"}
`,
			want: "FAIL  p 0.0s\npanic: no\n0 passed, 1 failed, 0 skipped\n",
		},
		{
			name: "a package that does not compile is one failure",
			in: `{"ImportPath":"p [p.test]","Action":"build-output","Output":"undefined: x\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
` + start + `{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}
`,
			want: "FAIL  p 0.0s\nundefined: x\n0 passed, 1 failed, 0 skipped\n",
		},
		{
			name: "a leak found after the tests is one failure",
			in: start + `{"Action":"run","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Output":"found unexpected goroutines\n"}
{"Action":"fail","Package":"p"}
`,
			want: "FAIL  p 0.0s\nfound unexpected goroutines\n1 passed, 1 failed, 0 skipped\n",
		},
		{
			name: "a run that was killed has failed",
			in:   start + `{"Action":"run","Package":"p","Test":"A"}` + "\n",
			want: "FAIL  p 0.0s\n0 passed, 1 failed, 0 skipped\n",
		},
		{
			name: "two runs of a package add up",
			in: start + `{"Action":"run","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}
` + start + `{"Action":"run","Package":"p","Test":"A"}
{"Action":"skip","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}
`,
			want: "ok    p 0.0s\nok    p 0.0s\n1 passed, 0 failed, 1 skipped\n",
		},
		{
			name: "a missing tool is a skip by hand",
			in: start + `{"Action":"output","Package":"p","Test":"A","Output":"missing tool: curl\n"}
{"Action":"skip","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}
`,
			want: "ok    p 0.0s\n0 passed, 0 failed, 1 skipped\n",
		},
		{
			name:   "a missing tool is a failure in CI",
			strict: true,
			in: start + `{"Action":"output","Package":"p","Test":"A","Output":"missing tool: curl\n"}
{"Action":"skip","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"B","Output":"not on this platform\n"}
{"Action":"skip","Package":"p","Test":"B"}
{"Action":"pass","Package":"p"}
`,
			want: "FAIL  p 0.0s\nmissing tool: curl\n0 passed, 1 failed, 1 skipped\n",
		},
		{
			name: "a package without tests is neither",
			in:   start + `{"Action":"skip","Package":"p"}` + "\n",
			want: "0 passed, 0 failed, 0 skipped\n",
		},
		{
			name: "what is no event is passed on",
			in:   "go: no such tool\n",
			want: "go: no such tool\n0 passed, 0 failed, 0 skipped\n",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			if err := newTotals(&out, test.strict).read(strings.NewReader(test.in)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, out.String()); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOutputIsBounded(t *testing.T) {
	var o output
	line := strings.Repeat("x", 1000) + "\n"
	for range 2 * maxOutputBytes / len(line) {
		o.add(line)
	}
	if got := o.text.Len(); got > maxOutputBytes+100 {
		t.Errorf("kept %d bytes, limit %d", got, maxOutputBytes)
	}
	if !strings.HasSuffix(o.text.String(), "cut here\n") {
		t.Error("the cut is not told")
	}
}

func FuzzTotals(f *testing.F) {
	f.Add(`{"Action":"output","Package":"p","Test":"A/b","Output":"x"}`)
	f.Add(`{"Action":"fail","Package":"p"}` + "\nnull\n[]\n")
	f.Fuzz(func(t *testing.T, in string) {
		var out strings.Builder
		if err := newTotals(&out, true).read(strings.NewReader(in)); err != nil {
			return
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if last := lines[len(lines)-1]; !strings.HasSuffix(last, " skipped") {
			t.Errorf("last line %q", last)
		}
	})
}
