package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Sources says where values come from besides flags.
type Sources struct {
	// Environ is the environment as os.Environ returns it. A variable that is empty counts as absent.
	Environ []string
	// File is the path of the YAML file; empty means the one that NEARSIDE_CONFIG names, or none.
	File string
	// Known are the names of all commands' settings.
	Known []string
}

// Load sets those settings of flags that the command line did not give: from the environment, else from the file. What it
// sets counts as given (pflag's Changed). It returns all errors at once, joined.
func Load(flags *pflag.FlagSet, src Sources) error {
	env, errs := readEnviron(src)
	path := src.File
	if path == "" {
		path = env[FileVariable].text
	}
	file, fileErrs := readFile(path, src.Known)
	errs = append(errs, fileErrs...)
	flags.VisitAll(func(f *pflag.Flag) {
		if !isSetting(f) || f.Changed {
			return
		}
		v, ok := env[variable(f.Name)]
		if !ok {
			v, ok = file[f.Name]
		}
		if !ok {
			return
		}
		if err := v.set(f); err != nil {
			errs = append(errs, err)
			return
		}
		f.Changed = true
	})
	return errors.Join(errs...)
}

// given is a value and where it stands.
type given struct {
	text   string
	list   []string
	isList bool
	origin string // "NEARSIDE_PORT", "mesh.yaml:3: port"
}

func (g given) set(f *pflag.Flag) error {
	list, takesList := f.Value.(pflag.SliceValue)
	var err error
	switch {
	case g.isList && takesList:
		err = list.Replace(g.list)
	case g.isList:
		err = errors.New("is a list, want one value")
	default:
		err = f.Value.Set(g.text)
	}
	if err == nil {
		return nil
	}
	if f.Name == tokenName {
		return fmt.Errorf("%s: invalid value", g.origin)
	}
	if g.isList {
		return fmt.Errorf("%s: %w", g.origin, err)
	}
	return fmt.Errorf("%s: invalid value %q: %w", g.origin, g.text, err)
}

// readEnviron returns the NEARSIDE_ variables by name.
func readEnviron(src Sources) (map[string]given, []error) {
	known := make(map[string]bool, len(src.Known)+1)
	known[FileVariable] = true
	for _, name := range src.Known {
		known[variable(name)] = true
	}
	env := make(map[string]given)
	var unknown []string
	for _, pair := range src.Environ {
		name, text, _ := strings.Cut(pair, "=")
		switch {
		case !strings.HasPrefix(name, EnvPrefix):
		case !known[name]:
			unknown = append(unknown, name)
		case text != "":
			env[name] = given{text: text, origin: name}
		}
	}
	slices.Sort(unknown)
	var errs []error
	for _, name := range unknown {
		errs = append(errs, fmt.Errorf("unknown environment variable %s", name))
	}
	return env, errs
}
