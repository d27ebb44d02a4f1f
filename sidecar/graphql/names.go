package graphql

import (
	"strings"
	"unicode"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// words splits a name in camel case: "GetAPIKey" is Get, API, Key.
func words(name string) []string {
	var out []string
	runes := []rune(name)
	start := 0
	for i := 1; i < len(runes); i++ {
		begins := unicode.IsUpper(runes[i]) && (!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1]))
		if begins {
			out = append(out, string(runes[start:i]))
			start = i
		}
	}
	if start < len(runes) {
		out = append(out, string(runes[start:]))
	}
	return out
}

// lowerFirst returns a name with its first word in lower case: "APIKey" is "apiKey".
func lowerFirst(name string) string {
	w := words(name)
	if len(w) == 0 {
		return name
	}
	return strings.ToLower(w[0]) + strings.Join(w[1:], "")
}

func upperFirst(name string) string {
	if name == "" {
		return ""
	}
	return strings.ToUpper(name[:1]) + name[1:]
}

// camel returns a name of words that _ and . separate in camel case: "acme.shop.v1" is "AcmeShopV1".
func camel(name string) string {
	var b strings.Builder
	for part := range strings.FieldsFuncSeq(name, func(r rune) bool { return r == '_' || r == '.' || r == '-' }) {
		b.WriteString(upperFirst(part))
	}
	return b.String()
}

// isName reports whether a text can be a name of ours in GraphQL: those that begin with __ are GraphQL's own.
func isName(text string) bool {
	for i, r := range text {
		if r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return text != "" && !strings.HasPrefix(text, "__")
}

// fieldName is a field's name in GraphQL: as JSON has it, where that is a name.
func fieldName(f protoreflect.FieldDescriptor) string {
	if name := f.JSONName(); isName(name) {
		return name
	}
	return strings.TrimLeft(string(f.Name()), "_") // a name in proto is one in GraphQL but for that
}

// relativeName is a descriptor's name within its package, in one word.
func relativeName(d protoreflect.Descriptor) string {
	full := string(d.FullName())
	if pkg := string(d.ParentFile().Package()); pkg != "" {
		full = strings.TrimPrefix(full, pkg+".")
	}
	return strings.TrimLeft(camel(full), "_")
}

// nounOf splits a method's name into what it does and what with: GetUser is Get and User, BatchGetUsers BatchGet and Users.
func nounOf(m protoreflect.MethodDescriptor) (verb, noun string) {
	w := words(string(m.Name()))
	n := 1
	if len(w) > 1 && w[0] == "Batch" {
		n = 2
	}
	n = min(n, len(w))
	return strings.Join(w[:n], ""), strings.Join(w[n:], "")
}

// serviceNoun is what a service is about: UserService is User.
func serviceNoun(s protoreflect.Descriptor) string {
	name := string(s.Name())
	for _, end := range []string{"Service", "API"} {
		if cut := strings.TrimSuffix(name, end); cut != "" {
			name = cut
		}
	}
	return name
}

// rootNames are the names that the field of a method may have, in the order in which they are tried.
func rootNames(m protoreflect.MethodDescriptor, safe bool) []string {
	verb, noun := nounOf(m)
	service := serviceNoun(m.Parent())
	name := lowerFirst(string(m.Name()))
	switch {
	case noun == "" && strings.EqualFold(verb, service):
	case noun == "": // alone it says too little: EchoService.Count is echoCount
		name = lowerFirst(service) + upperFirst(string(m.Name()))
	case safe && (verb == "Get" || verb == "List"):
		name = lowerFirst(noun)
	}
	pkg := camel(string(m.ParentFile().Package()))
	return []string{
		name, lowerFirst(service) + upperFirst(name), lowerFirst(pkg) + upperFirst(name), lowerFirst(pkg + service + string(m.Name())),
	}
}

// enumNames are the names of an enum's values: without what they all begin with, where that leaves names.
func enumNames(e protoreflect.EnumDescriptor) []string {
	var b strings.Builder
	for _, w := range words(string(e.Name())) {
		b.WriteString(strings.ToUpper(w) + "_")
	}
	prefix := b.String()
	values := e.Values()
	short, long := make([]string, values.Len()), make([]string, values.Len())
	seen := make(map[string]bool)
	usable := true
	for i := range values.Len() {
		long[i] = strings.TrimLeft(string(values.Get(i).Name()), "_")
		cut, ok := strings.CutPrefix(long[i], prefix)
		short[i] = cut
		usable = usable && ok && isName(cut) && !reservedValues[cut] && !seen[cut]
		seen[cut] = true
	}
	if usable {
		return short
	}
	return long
}

// reservedValues cannot be values of enums.
var reservedValues = map[string]bool{"true": true, "false": true, "null": true}
