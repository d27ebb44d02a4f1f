package access

import (
	"bytes"
	"encoding/base64"
	"strings"
)

// Resembles reports whether a header has something in it that has the form of a secret or a token of a mesh, whether it is good or not: one
// that has run out, that a region does not know yet, or that is written as no credential is. Whoever is not meant to have one is not to be
// given it.
func Resembles(lines []string) bool {
	for _, line := range lines {
		for _, prefix := range []string{APIKeyPrefix, RefreshTokenPrefix, ResetTokenPrefix} {
			if strings.Contains(line, prefix) {
				return true
			}
		}
		for word := range strings.FieldsFuncSeq(line, func(c rune) bool { return c == ' ' || c == ',' || c == '"' || c == '=' || c == '\t' }) {
			parts := strings.Split(word, ".")
			if len(parts) != 3 {
				continue
			}
			text, err := base64.RawURLEncoding.DecodeString(parts[1])
			if err == nil && bytes.Contains(text, []byte(claimMadeAt)) {
				return true
			}
		}
	}
	return false
}
