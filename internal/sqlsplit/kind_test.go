package sqlsplit

import "testing"

func TestKind(t *testing.T) {
	for sql, want := range map[string]string{
		"":                               "",
		" -- x":                          "",
		"/* x":                           "",
		"begin immediate":                "BEGIN",
		"COMMIT":                         "COMMIT",
		"End;":                           "END",
		"-- x\n/* y */ rollback to a":    "ROLLBACK",
		"savepoint a":                    "SAVEPOINT",
		"RELEASE a":                      "RELEASE",
		"pragma/**/foreign_keys":         "PRAGMA",
		"vacuum":                         "VACUUM",
		"\xEF\xBB\xBF;; attach 'x' AS y": "ATTACH",
		"(SELECT 1)":                     "",
		"'BEGIN'":                        "",
		"- begin":                        "",
		"begin_x":                        "BEGIN_X",
		"ſavepoint a":                    "ſAVEPOINT",
	} {
		if got := Kind(sql); got != want {
			t.Errorf("Kind(%q) = %q, want %q", sql, got, want)
		}
	}
}
