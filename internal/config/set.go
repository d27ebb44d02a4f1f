package config

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// EnvPrefix is what the environment variables of settings begin with.
const EnvPrefix = "NEARSIDE_"

// FileVariable names the YAML file, as the flag --config does.
const FileVariable = EnvPrefix + "CONFIG"

// annotation marks the flags that are settings; the others are operands of one call and come from its flags alone.
const annotation = "nearside_setting"

// Set registers settings in a command's flags. What the variable holds when it is registered is the setting's default.
type Set struct {
	flags *pflag.FlagSet
}

// NewSet returns a Set that registers in flags.
func NewSet(flags *pflag.FlagSet) Set { return Set{flags: flags} }

// String registers a text.
func (s Set) String(p *string, name, usage string) {
	s.flags.StringVar(p, name, *p, describe(name, usage))
	s.mark(name)
}

// Strings registers a list, separated by commas in a flag or variable.
func (s Set) Strings(p *[]string, name, usage string) {
	s.flags.StringSliceVar(p, name, *p, describe(name, usage))
	s.mark(name)
}

// Int registers an integer.
func (s Set) Int(p *int, name, usage string) {
	s.flags.IntVar(p, name, *p, describe(name, usage))
	s.mark(name)
}

// Bool registers a switch.
func (s Set) Bool(p *bool, name, usage string) {
	s.flags.BoolVar(p, name, *p, describe(name, usage))
	s.mark(name)
}

// Duration registers a duration, written like 1m30s.
func (s Set) Duration(p *time.Duration, name, usage string) {
	s.flags.DurationVar(p, name, *p, describe(name, usage))
	s.mark(name)
}

func describe(name, usage string) string { return fmt.Sprintf("%s [%s]", usage, variable(name)) }

func (s Set) mark(name string) {
	s.flags.Lookup(name).Annotations = map[string][]string{annotation: nil}
}

// Names returns the names of the settings in flags.
func Names(flags *pflag.FlagSet) []string {
	var names []string
	flags.VisitAll(func(f *pflag.Flag) {
		if isSetting(f) {
			names = append(names, f.Name)
		}
	})
	return names
}

func isSetting(f *pflag.Flag) bool {
	_, ok := f.Annotations[annotation]
	return ok
}

// variable returns the environment variable of a setting.
func variable(name string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}
