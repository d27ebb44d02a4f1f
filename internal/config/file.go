package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"go.yaml.in/yaml/v3"
)

// maxFileBytes bounds a configuration file.
const maxFileBytes = 1 << 20

// readFile returns the file's values by name; none if path is empty.
func readFile(path string, known []string) (map[string]given, []error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, []error{fmt.Errorf("configuration file: %w", err)}
	}
	defer f.Close() //nolint:errcheck // only read from
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	switch {
	case err != nil:
		return nil, []error{fmt.Errorf("configuration file: %w", err)}
	case len(text) > maxFileBytes:
		return nil, []error{fmt.Errorf("configuration file %s: longer than %d bytes", path, maxFileBytes)}
	}
	return parseFile(path, text, known)
}

// parseFile reads one YAML mapping of names to scalars or lists of scalars.
func parseFile(path string, text []byte, known []string) (map[string]given, []error) {
	var doc, next yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil // empty, or comments alone
	case err != nil:
		return nil, []error{fmt.Errorf("%s: %w", path, err)}
	case !errors.Is(decoder.Decode(&next), io.EOF):
		return nil, []error{fmt.Errorf("%s: want one YAML document", path)}
	case len(doc.Content) == 0:
		return nil, nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, []error{fmt.Errorf("%s:%d: want a mapping of settings", path, root.Line)}
	}
	values := make(map[string]given)
	var errs []error
	for i := 0; i+1 < len(root.Content); i += 2 {
		key := root.Content[i]
		origin := fmt.Sprintf("%s:%d: %s", path, key.Line, key.Value)
		if !slices.Contains(known, key.Value) {
			errs = append(errs, fmt.Errorf("%s:%d: unknown key %q", path, key.Line, key.Value))
			continue
		}
		if _, twice := values[key.Value]; twice {
			errs = append(errs, fmt.Errorf("%s is given twice", origin))
			continue
		}
		v, err := fromNode(root.Content[i+1])
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", origin, err))
			continue
		}
		v.origin = origin
		values[key.Value] = v
	}
	return values, errs
}

func fromNode(n *yaml.Node) (given, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		text, err := scalar(n)
		return given{text: text}, err
	case yaml.SequenceNode:
		list := make([]string, 0, len(n.Content))
		for _, item := range n.Content {
			text, err := scalar(item)
			if err != nil {
				return given{}, err
			}
			list = append(list, text)
		}
		return given{list: list, isList: true}, nil
	default:
		return given{}, errors.New("want a value or a list of values")
	}
}

func scalar(n *yaml.Node) (string, error) {
	switch {
	case n.Kind != yaml.ScalarNode:
		return "", errors.New("want a value or a list of values")
	case n.Tag == "!!null":
		return "", errors.New("has no value")
	default:
		return n.Value, nil
	}
}
