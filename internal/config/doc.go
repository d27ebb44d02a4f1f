// Package config holds the settings of a Nearside process and says where their values come from: a flag, else a NEARSIDE_…
// environment variable, else a YAML file, else a default.
//
// A setting has one name everywhere. The flag --insecure-listen is NEARSIDE_INSECURE_LISTEN in the environment and
// insecure-listen in the file. The names are shared by all commands, so one file serves them all and each takes what it
// knows. A name that no command knows is an error, in the file and in the environment.
package config
