package server

import (
	"strings"
	"testing"
)

// BenchmarkExpressHead reads the heads of calls that differ in their length alone, as those of one client do.
func BenchmarkExpressHead(b *testing.B) {
	for _, credential := range []string{"", strings.Repeat("x", 420)} {
		name := map[bool]string{true: "with a token", false: "without"}[credential != ""]
		b.Run(name, func(b *testing.B) {
			headers := []string{"Content-Type: application/proto", "Connect-Protocol-Version: 1", "User-Agent: bench"}
			if credential != "" {
				headers = append(headers, "Authorization: Bearer "+credential)
			}
			var requests [2][]byte
			for i := range requests {
				requests[i] = []byte(post("/nearside.data.v1.DataService/Get", strings.Repeat("x", 30+i), headers...))
			}
			var h expressHead
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if h.parse(requests[i%2]) != headOK {
					b.Fatal("not understood")
				}
			}
		})
	}
}
