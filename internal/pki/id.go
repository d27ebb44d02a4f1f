package pki

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Role is what a node is in its mesh.
type Role string

// The roles.
const (
	RolePrimary Role = "primary"
	RoleSidecar Role = "sidecar"
)

// ID is a node's name in its mesh.
type ID struct {
	Mesh   string // 32 lowercase hexadecimal digits
	Region string
	Role   Role
}

// ErrID means that a text is not the name of a node.
var ErrID = errors.New("not the name of a node")

var (
	meshPattern   = regexp.MustCompile(`^[0-9a-f]{32}$`)
	regionPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)
	nodePattern   = regexp.MustCompile(`^[a-z0-9_]{1,64}$`)
)

// Validate returns what is wrong with id; it is ErrID.
func (id ID) Validate() error {
	switch {
	case !meshPattern.MatchString(id.Mesh):
		return fmt.Errorf("%w: mesh %q", ErrID, id.Mesh)
	case !regionPattern.MatchString(id.Region):
		return fmt.Errorf("%w: region %q", ErrID, id.Region)
	case id.Role != RolePrimary && id.Role != RoleSidecar:
		return fmt.Errorf("%w: role %q", ErrID, id.Role)
	default:
		return nil
	}
}

// URI returns the SPIFFE id.
func (id ID) URI() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.Mesh, Path: "/region/" + id.Region + "/" + string(id.Role)}
}

// String returns the SPIFFE id.
func (id ID) String() string { return id.URI().String() }

// ParseID reads a SPIFFE id as String writes it, to the letter. Its error is ErrID.
func ParseID(text string) (ID, error) {
	rest, ok := strings.CutPrefix(text, "spiffe://")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 4 || parts[1] != "region" {
		return ID{}, fmt.Errorf("%w: %.200q", ErrID, text)
	}
	id := ID{Mesh: parts[0], Region: parts[2], Role: Role(parts[3])}
	return id, id.Validate()
}

// ServerName is what nodes of a mesh ask each other for in TLS, so that a listener knows them from callers before it shows a
// certificate.
func ServerName(mesh string) string { return mesh + ".nodes.nearside" }
