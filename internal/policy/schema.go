package policy

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"github.com/nearside-dev/nearside/internal/catalog"
)

// Types of entities.
const (
	typeUser     = "User"      // an account of a person, by its id
	typeService  = "Service"   // a service account, by its id
	typeNobody   = "Anonymous" // who calls a public service without a credential: Anonymous::"anonymous"
	typeRole     = "Role"      // admin, or reader:DB, writer:DB, owner:DB
	typeDatabase = "Database"  // by its name
	typeTable    = "Table"     // DB/table, in lower case
	typeAPI      = "Api"       // package.Service, or package.Service/Method
	typeAction   = "Action"
)

// ActionCall is the action of methods that the mesh does not know: those of services that are mounted beside the data or
// registered with the gateways. Which method it is says the resource.
const ActionCall = "call"

// Method is a method that is an action of its own.
type Method struct {
	Procedure string // /package.Service/Method
	Group     string // the action that it is one of; "" is none
}

// ActionOf returns the action of a procedure that the schema has.
func ActionOf(procedure string) string { return strings.TrimPrefix(procedure, "/") }

const entities = `
entity Role;
entity User in [Role] = { id: String, name: String, tenant: String };
entity Service in [Role] = { id: String, name: String, tenant: String };
entity Anonymous in [Role] = { id: String, name: String, tenant: String };
entity Database = { name: String };
entity Table in [Database] = { name: String, database: String };
entity Api in [Api] = { name: String };
`

// Schema is what policies may talk about.
type Schema struct {
	text      string
	validator *validate.Validator
}

// NewSchema returns the schema of a mesh with methods.
func NewSchema(methods []Method) (*Schema, error) {
	var b strings.Builder
	b.WriteString(strings.TrimPrefix(entities, "\n"))
	const applies = " appliesTo { principal: [User, Service], resource: [Database, Table, Api], context: {} };\n"
	const call = " appliesTo { principal: [User, Service, Anonymous], resource: [Database, Table, Api], context: {} };\n"
	groups := make(map[string]bool)
	for _, m := range methods {
		if m.Group != "" && !groups[m.Group] {
			groups[m.Group] = true
			fmt.Fprintf(&b, "action %q;\n", m.Group)
		}
	}
	fmt.Fprintf(&b, "action %q%s", ActionCall, call)
	for _, m := range methods {
		in := ""
		if m.Group != "" {
			in = fmt.Sprintf(" in [%q]", m.Group)
		}
		fmt.Fprintf(&b, "action %q%s%s", ActionOf(m.Procedure), in, applies)
	}
	s := &Schema{text: b.String()}
	var parsed schema.Schema
	if err := parsed.UnmarshalCedar([]byte(s.text)); err != nil {
		return nil, fmt.Errorf("schema of policies: %w", err)
	}
	resolved, err := parsed.Resolve()
	if err != nil {
		return nil, fmt.Errorf("schema of policies: %w", err)
	}
	s.validator = validate.New(resolved)
	return s, nil
}

// String returns the schema in Cedar's own words.
func (s *Schema) String() string { return s.text }

// Limits of one policy.
const (
	MaxBytes = 8 << 10
	// maxDepth is how deep brackets may stand in each other: reading, checking and deciding go as deep.
	maxDepth = 32
)

// TextError says what is wrong with a policy.
type TextError struct{ text string }

// Error implements error.
func (p *TextError) Error() string { return p.text }

func problemf(format string, args ...any) *TextError { return &TextError{fmt.Sprintf(format, args...)} }

// Check reads a policy and checks it against the schema. The error is a *TextError.
func (s *Schema) Check(name, text string) (*Policy, error) {
	p, err := Parse(name, text)
	if err != nil {
		return nil, err
	}
	if err := s.validator.Policy("", p.tree); err != nil {
		return nil, problemf("%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if err := p.checkNames(); err != nil {
		return nil, err
	}
	return p, p.checkFilter()
}

// Policy is one policy.
type Policy struct {
	name     string
	compiled *cedar.Policy
	tree     *ast.Policy
	audits   bool          // what it permits is recorded
	filter   *rowRule      // of a policy that restricts a table to rows; nil otherwise
	applies  *cedar.Policy // the policy as far as it is of the caller; see Set.Restricts
	byTable  bool          // what it says of a table may differ from what it says of the table's database
}

// Parse reads a policy without the schema. The error is a *TextError.
func Parse(name, text string) (*Policy, error) {
	switch {
	case len(text) > MaxBytes:
		return nil, problemf("is longer than %d bytes", MaxBytes)
	case !utf8.ValidString(text):
		return nil, problemf("is not UTF-8")
	case tooDeep(text):
		return nil, problemf("has more than %d brackets or operators in each other", maxDepth)
	}
	list, err := cedar.NewPolicyListFromBytes(name, []byte(text))
	if err != nil {
		return nil, problemf("%s", err.Error())
	}
	if len(list) != 1 {
		return nil, problemf("has %d statements: want one", len(list))
	}
	p := &Policy{name: name, compiled: list[0], tree: (*ast.Policy)(list[0].AST())}
	if p.filter, err = rowRuleOf(p.tree); err != nil {
		return nil, err
	}
	p.audits = audits(p.tree)
	p.analyse()
	return p, nil
}

// tooDeep reports whether a text has more in each other than a policy needs. It counts what opens, in texts and comments too.
func tooDeep(text string) bool {
	depth, prefixes, ifs := 0, 0, 0
	for i := range len(text) {
		switch text[i] {
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			depth--
		case '!', '-':
			prefixes++
		case 'i':
			if strings.HasPrefix(text[i:], "if") {
				ifs++
			}
		}
		if depth > maxDepth || ifs > maxDepth || prefixes > 8*maxDepth {
			return true
		}
	}
	return false
}

// checkNames checks names that could never be those of what is asked about.
func (p *Policy) checkNames() error {
	var problem *TextError
	p.eachEntity(func(id cedar.EntityUID) {
		if id.Type != typeTable || problem != nil {
			return
		}
		database, table, ok := strings.Cut(string(id.ID), "/")
		switch {
		case !ok || database == "" || table == "":
			problem = problemf(`Table::%q: want Table::"DATABASE/TABLE"`, id.ID)
		case table != catalog.Fold(table):
			problem = problemf("Table::%q: names of tables are in lower case here, whatever their case elsewhere", id.ID)
		}
	})
	if problem != nil {
		return problem
	}
	return nil
}
