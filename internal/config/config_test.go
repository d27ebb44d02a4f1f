package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// everything registers all settings under their real names, as if one command had them all.
type everything struct {
	log    Log
	client Client
	up     Up
}

func newFlags() (*everything, *pflag.FlagSet) {
	e := &everything{log: DefaultLog(), client: DefaultClient(), up: DefaultUp()}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	e.log.Register(NewSet(flags))
	e.up.Register(NewSet(flags))
	e.client.Dir = "" // one flag --dir for both is enough here
	s := NewSet(flags)
	s.String(&e.client.URL, "url", "")
	s.String(&e.client.Token, "token", "")
	s.Duration(&e.client.Timeout, "timeout", "")
	flags.Bool("operand", false, "not a setting")
	return e, flags
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	file := writeFile(t, "port: 3001\nurl: http://file\nlog-level: warn\nregions: [a, b]\ntimeout: 2s\ninsecure-listen: true\n")
	e, flags := newFlags()
	if err := flags.Parse([]string{"--port", "1111"}); err != nil {
		t.Fatal(err)
	}
	src := Sources{
		File:    file,
		Environ: []string{"NEARSIDE_PORT=2222", "NEARSIDE_URL=http://env", "NEARSIDE_TIMEOUT=", "HOME=/", "PORT=9"},
		Known:   Names(flags),
	}
	if err := Load(flags, src); err != nil {
		t.Fatal(err)
	}
	want := &everything{log: DefaultLog(), client: DefaultClient(), up: DefaultUp()}
	want.up.Port = 1111                   // the flag before all
	want.client.URL = "http://env"        // the environment before the file
	want.client.Timeout = 2 * time.Second // an empty variable counts as none
	want.log.Level = "warn"               // the file before the default
	want.up.Regions = []string{"a", "b"}  // replaced, not added to
	want.up.InsecureListen = true         //
	if diff := cmp.Diff(want, e, cmp.AllowUnexported(everything{})); diff != "" {
		t.Error(diff)
	}
	for name, given := range map[string]bool{"port": true, "url": true, "log-level": true, "dir": false} {
		if got := flags.Changed(name); got != given {
			t.Errorf("Changed(%q) = %v, want %v", name, got, given)
		}
	}
}

func TestFileByVariable(t *testing.T) {
	e, flags := newFlags()
	src := Sources{
		Environ: []string{"NEARSIDE_CONFIG=" + writeFile(t, "# lists by comma too\nregions: a,b,c\n"), "NEARSIDE_REGIONS=x,y"},
		Known:   Names(flags),
	}
	if err := Load(flags, src); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"x", "y"}, e.up.Regions); diff != "" {
		t.Error(diff)
	}
}

func TestErrors(t *testing.T) {
	file := writeFile(t, "port: many\nprot: 1\nurl: [a, b]\nlog-level:\nregions: {a: b}\ndir: x\ndir: y\noperand: true\ntoken: [s3cret]\n")
	_, flags := newFlags()
	src := Sources{
		File:    file,
		Environ: []string{"NEARSIDE_TIMEOUT=soon", "NEARSIDE_FOO=1", "NEARSIDE_OPERAND=1", "NEARSIDE_DIRECTORY="},
		Known:   Names(flags),
	}
	err := Load(flags, src)
	if err == nil {
		t.Fatal("no error")
	}
	got := strings.Split(strings.ReplaceAll(err.Error(), file, "FILE"), "\n")
	want := []string{
		`unknown environment variable NEARSIDE_DIRECTORY`,
		`unknown environment variable NEARSIDE_FOO`,
		`unknown environment variable NEARSIDE_OPERAND`,
		`FILE:2: unknown key "prot"`,
		`FILE:4: log-level: has no value`,
		`FILE:5: regions: want a value or a list of values`,
		`FILE:7: dir is given twice`,
		`FILE:8: unknown key "operand"`,
		`FILE:1: port: invalid value "many": strconv.ParseInt: parsing "many": invalid syntax`,
		`NEARSIDE_TIMEOUT: invalid value "soon": time: invalid duration "soon"`,
		`FILE:9: token: invalid value`,
		`FILE:3: url: is a list, want one value`,
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFileProblems(t *testing.T) {
	for name, text := range map[string]string{
		"not yaml":  "a: [",
		"a list":    "- a\n- b\n",
		"a scalar":  "port",
		"too large": "#" + strings.Repeat(" ", maxFileBytes),
		"documents": "url: http://x\n---\nurl: http://y\n",
		"alias":     "url: &u http://x\ntoken: *u\n",
	} {
		t.Run(name, func(t *testing.T) {
			if _, errs := readFile(writeFile(t, text), []string{"url", "token"}); len(errs) == 0 {
				t.Error("no error")
			}
		})
	}
	if _, errs := readFile(filepath.Join(t.TempDir(), "none.yaml"), nil); len(errs) == 0 {
		t.Error("no error for an absent file")
	}
	if values, errs := readFile(writeFile(t, "# nothing\n"), nil); len(errs) != 0 || len(values) != 0 {
		t.Errorf("empty file: %v, %v", values, errs)
	}
}

func TestValidate(t *testing.T) {
	up := func(change func(*Up)) error {
		c := DefaultUp()
		change(&c)
		return c.Validate()
	}
	primary := func(change func(*Primary)) error {
		c := DefaultPrimary()
		change(&c)
		return c.Validate()
	}
	sidecar := func(change func(*Sidecar)) error {
		c := DefaultSidecar()
		c.Region = "eu-west-1"
		change(&c)
		return c.Validate()
	}
	client := func(change func(*Client)) error {
		c := DefaultClient()
		change(&c)
		return c.Validate()
	}
	for _, test := range []struct {
		name string
		err  error
		want []string // parts of the message; nil means none
	}{
		{"up", up(func(*Up) {}), nil},
		{"lowest port", up(func(c *Up) { c.Port = 1011 }), nil},
		{"too low", up(func(c *Up) { c.Port = 1010 }), []string{`--port "1010": must be from 1011 to 64533`}},
		{"highest port", up(func(c *Up) { c.Port = 64533 }), nil},
		{"too high", up(func(c *Up) { c.Port = 64534 }), []string{"--port"}},
		{"one region", up(func(c *Up) { c.Regions = []string{"a"} }), nil},
		{"no region", up(func(c *Up) { c.Regions = nil }), []string{"--regions"}},
		{"region twice", up(func(c *Up) { c.Regions = []string{"a", "b", "a"} }), []string{`"a" is there twice`}},
		{"region's folder", up(func(c *Up) { c.Regions = []string{"primary"} }), []string{"--regions"}},
		{"region up", up(func(c *Up) { c.Regions = []string{"../x"} }), []string{"--regions"}},
		{"open", up(func(c *Up) { c.ListenHost = "0.0.0.0" }), []string{"--listen-host", "--insecure-listen"}},
		{"open on purpose", up(func(c *Up) { c.ListenHost, c.InsecureListen = "0.0.0.0", true }), nil},
		{"IPv6", up(func(c *Up) { c.ListenHost = "::1" }), nil},
		{"all at once", up(func(c *Up) { *c = Up{} }), []string{"--dir", "--port", "--regions", "--listen-host"}},
		{"primary", primary(func(*Primary) {}), nil},
		{"no port", primary(func(c *Primary) { c.Listen = "localhost" }), []string{"--listen"}},
		{"no admin port", primary(func(c *Primary) { c.Listen = "localhost:65000" }), []string{"--listen", "66000"}},
		{"all addresses", primary(func(c *Primary) { c.Listen, c.RequireNodes = ":7070", false }), []string{`--listen ":7070"`}},
		{"all addresses for everybody", primary(func(c *Primary) { c.Listen, c.NoAuth = ":7070", true }), []string{`--listen ":7070"`}},
		{"all addresses for nodes", primary(func(c *Primary) { c.Listen = ":7070" }), nil},
		{"half a certificate", primary(func(c *Primary) { c.TLSCert = "c.pem" }), []string{"--tls-cert", "--tls-key"}},
		{"all addresses with a certificate", up(func(c *Up) { c.ListenHost, c.TLSCert, c.TLSKey = "0.0.0.0", "c", "k" }), nil},
		{"sidecar", sidecar(func(*Sidecar) {}), nil},
		{"no region", sidecar(func(c *Sidecar) { c.Region = "" }), []string{"--region"}},
		{"primary without scheme", sidecar(func(c *Sidecar) { c.Primary = "127.0.0.1:7070" }), []string{"--primary"}},
		{"advertised", sidecar(func(c *Sidecar) { c.AdvertiseURL = "ftp://x" }), []string{"--advertise-url"}},
		{"no cache", sidecar(func(c *Sidecar) { c.Cache.Bytes = 0 }), nil},
		{"tiny cache", sidecar(func(c *Sidecar) { c.Cache.Bytes = 1000 }), []string{`--cache-bytes "1000": want 0 or at least 1048576`}},
		{"negative cache", up(func(c *Up) { c.Cache.Bytes = -1 }), []string{"--cache-bytes"}},
		{"no share", up(func(c *Up) { c.Cache.Percent = 0 }), []string{"--cache-database-percent"}},
		{"client", client(func(*Client) {}), nil},
		{"user in URL", client(func(c *Client) { c.URL = "http://me:pw@host" }), []string{"--url", "xxxxx"}},
		{"token", client(func(c *Client) { c.Token = "s3cret\n" }), []string{"--token"}},
		{"negative", client(func(c *Client) { c.Timeout = -1 }), []string{"--timeout"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.want == nil && test.err != nil {
				t.Fatalf("got %v, want none", test.err)
			}
			if test.want != nil && test.err == nil {
				t.Fatal("no error")
			}
			for _, part := range test.want {
				if !strings.Contains(test.err.Error(), part) {
					t.Errorf("%q lacks %q", test.err, part)
				}
			}
			if test.err != nil && (strings.Contains(test.err.Error(), "s3cret") || strings.Contains(test.err.Error(), ":pw@")) {
				t.Errorf("%q shows a secret", test.err)
			}
		})
	}
}

func TestShift(t *testing.T) {
	for _, test := range []struct {
		address string
		want    string // empty means an error
	}{
		{"127.0.0.1:7070", "127.0.0.1:8070"},
		{"[::1]:1", "[::1]:1001"},
		{"127.0.0.1:0", "127.0.0.1:0"},
		{"127.0.0.1:64536", ""},
		{"127.0.0.1:http", ""},
		{"127.0.0.1", ""},
	} {
		got, err := Shift(test.address, AdminPortOffset)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("Shift(%q) = %q, %v, want %q", test.address, got, err, test.want)
		}
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add([]byte("port: 1\nregions: [a, b]\n"))
	f.Add([]byte("a: &x [*x]\n<<: {port: 1}\n"))
	f.Add([]byte("? {a: b}\n: c\n"))
	f.Add([]byte("port: !!binary x\n---\nport: 2"))
	known := []string{"port", "regions"}
	f.Fuzz(func(t *testing.T, text []byte) {
		values, errs := parseFile("f", text, known)
		for name, v := range values {
			if !slices.Contains(known, name) {
				t.Errorf("unknown name %q", name)
			}
			if v.isList && v.text != "" {
				t.Errorf("%q is a list and a text", name)
			}
		}
		for _, err := range errs {
			if !strings.Contains(err.Error(), "f:") {
				t.Errorf("%q does not name the file", err)
			}
		}
	})
}
