package sidecar

import (
	"net/http"

	"github.com/nearside-dev/nearside/sidecar/demo"
)

// withDemo has the gateway serve the page at /demo/, which everybody may load: it asks for data as any other caller does.
func (s *Sidecar) withDemo(next http.Handler) (http.Handler, error) {
	return demo.New(demo.Options{Next: next, Regions: s.regionURLs})
}

// regionURLs are the base URLs of the mesh's gateways; none while they are not known.
func (s *Sidecar) regionURLs() []string {
	regions, err := s.directory.Regions()
	if err != nil {
		return nil
	}
	urls := make([]string, len(regions))
	for i, r := range regions {
		urls[i] = r.URL
	}
	return urls
}
