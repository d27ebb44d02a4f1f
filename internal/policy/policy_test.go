package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearside-dev/nearside/internal/identity"
)

const (
	get     = "nearside.data.v1.DataService/Get"
	listAll = "nearside.data.v1.DataService/ListDatabases"
)

func testSchema(t testing.TB) *Schema {
	t.Helper()
	s, err := NewSchema([]Method{{Procedure: "/" + get, Group: "read"}, {Procedure: "/x.v1.S/Put", Group: "write"}, {Procedure: "/" + listAll}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCheck(t *testing.T) {
	s := testSchema(t)
	for _, text := range []string{
		`permit (principal, action, resource);`,
		`forbid (principal, action in Action::"read", resource == Table::"shop/secrets") unless { principal in Role::"admin" };`,
		`forbid (principal == User::"u_1", action == Action::"nearside.data.v1.DataService/Get", resource in Database::"shop");`,
		`permit (principal is Service, action == Action::"call", resource in Api::"shop.v1.Orders");`,
		`forbid (principal, action, resource) when { resource is Table && resource.database == "shop" && principal.tenant != "a" };`,
		`@unless_row("owner == principal.id") forbid (principal is User, action, resource == Table::"shop/orders");`,
		`@note("anything else") @unless_row("org==principal.tenant")
		forbid (principal, action, resource == Table::"shop/orders") unless { principal in Role::"admin" };`,
	} {
		if _, err := s.Check("p", text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, c := range []struct{ text, want string }{
		{``, "0 statements"},
		{`permit (principal, action, resource); permit (principal, action, resource);`, "2 statements"},
		{`permit (principal, action, resource)`, "parse error"},
		{`allow (principal, action, resource);`, "parse error"},
		{`permit (principal == Nobody::"x", action, resource);`, "Nobody"},
		{`permit (principal == Role::"admin", action, resource);`, "unable to find an applicable action"},
		{`permit (principal, action == Action::"fly", resource);`, "fly"},
		{`permit (principal, action, resource) when { principal.age > 3 };`, "age"},
		{`permit (principal, action, resource) when { principal.name > 3 };`, "type"},
		{`permit (principal, action, resource) when { context.address == "x" };`, "address"},
		{`permit (principal, action, resource == Table::"orders");`, `want Table::"DATABASE/TABLE"`},
		{`permit (principal, action, resource == Table::"shop/Orders");`, "lower case"},
		{`permit (principal, action, resource) when { resource in [Table::"shop/Orders"] };`, "lower case"},
		{`@unless_row("owner == principal.id") permit (principal, action, resource == Table::"shop/orders");`, "belongs to forbid"},
		{`@unless_row("owner == principal.id") forbid (principal, action, resource in Database::"shop");`, "needs the table"},
		{`@unless_row("owner == principal.id") forbid (principal, action in Action::"read", resource == Table::"shop/orders");`, "all actions"},
		{`@audit forbid (principal, action, resource);`, "belongs to permit"},
		{`@unless_row("owner == principal.name") forbid (principal, action, resource == Table::"shop/orders");`, "want COLUMN"},
		{`@unless_row("owner") forbid (principal, action, resource == Table::"shop/orders");`, "want COLUMN"},
		{`@unless_row("ow\"ner == principal.id") forbid (principal, action, resource == Table::"shop/orders");`, "want COLUMN"},
		{`@unless_row("owner == principal.id") forbid (principal, action, resource == Table::"shop/orders") when { resource is Table };`,
			"principal alone"},
		{`permit (principal, action, resource) when { ` + strings.Repeat("(", 40) + "true" + strings.Repeat(")", 40) + ` };`, "in each other"},
		{`permit (principal, action, resource) when { ` + strings.Repeat("!", 400) + "true };", "in each other"},
		{"permit (principal, action, resource); //" + strings.Repeat("x", MaxBytes), "longer than"},
		{"permit (principal, action, resource); // \xff", "UTF-8"},
	} {
		_, err := s.Check("p", c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80s: %v, want %q", c.text, err, c.want)
		}
	}
}

var (
	ann  = &identity.Subject{Kind: identity.User, ID: "u_ann", Name: "ann", Roles: []string{"reader:shop"}, Tenant: "acme"}
	bot  = &identity.Subject{Kind: identity.Service, ID: "sa_bot", Name: "bot", Roles: []string{"writer:shop"}}
	root = &identity.Subject{Kind: identity.User, ID: "u_root", Name: "root", Roles: []string{"admin"}}
)

func setOf(t testing.TB, texts ...string) *Set {
	t.Helper()
	var rows []Row
	for i, text := range texts {
		if _, err := testSchema(t).Check("p", text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		rows = append(rows, Row{Name: fmt.Sprint("p", i), Text: text})
	}
	return NewSet(rows)
}

func TestDecide(t *testing.T) {
	shop := func(table string) Resource { return Resource{Database: "shop", Table: table} }
	orders := Resource{Service: "shop.v1.Orders", Method: "Create"}
	for _, c := range []struct {
		name   string
		text   string
		caller *identity.Subject
		on     Resource
		want   Effect
	}{
		{"role", `permit (principal in Role::"reader:shop", action in Action::"read", resource in Database::"shop");`, ann, shop("t"), Permits},
		{"another role", `permit (principal in Role::"reader:shop", action in Action::"read", resource in Database::"shop");`, bot, shop("t"), Silent},
		{"another database", `permit (principal, action in Action::"read", resource in Database::"pop");`, ann, shop("t"), Silent},
		{"the database itself", `permit (principal, action in Action::"read", resource in Database::"shop");`, ann, shop(""), Permits},
		{"another group", `permit (principal, action in Action::"write", resource);`, ann, shop("t"), Silent},
		{"user", `forbid (principal == User::"u_ann", action, resource);`, ann, shop("t"), Forbids},
		{"no service of the same id", `forbid (principal == Service::"u_ann", action, resource);`, ann, shop("t"), Silent},
		{"table", `forbid (principal, action, resource == Table::"shop/t");`, ann, shop("t"), Forbids},
		{"another table", `forbid (principal, action, resource == Table::"shop/t");`, ann, shop("u"), Silent},
		{"tenant", `permit (principal, action, resource) when { principal.tenant == "acme" };`, ann, shop("t"), Permits},
		{"no tenant", `permit (principal, action, resource) when { principal.tenant == "acme" };`, bot, shop("t"), Silent},
		{"name of a table", `forbid (principal, action, resource) when { resource is Table && resource.name like "sec*" };`, ann, shop("secrets"), Forbids},
		{"service", `forbid (principal, action == Action::"call", resource in Api::"shop.v1.Orders");`, ann, orders, Forbids},
		{"method", `forbid (principal, action == Action::"call", resource == Api::"shop.v1.Orders/Create");`, ann, orders, Forbids},
		{"another method", `forbid (principal, action == Action::"call", resource == Api::"shop.v1.Orders/Get");`, ann, orders, Silent},
		{"unless", `forbid (principal, action, resource) unless { principal in Role::"admin" };`, root, shop("t"), Silent},
	} {
		action, group := get, "read"
		if c.on.Database == "" {
			action, group = ActionCall, ""
		}
		if got := setOf(t, c.text).Decide(c.caller, action, group, c.on); got.Effect != c.want || len(got.Errors) > 0 {
			t.Errorf("%s: %+v, want %d", c.name, got, c.want)
		}
	}
}

func TestAudit(t *testing.T) {
	set := setOf(t, `permit (principal, action in Action::"read", resource);`, `@audit permit (principal is User, action, resource in Database::"shop");`)
	for _, c := range []struct {
		caller *identity.Subject
		on     Resource
		want   bool
	}{
		{ann, Resource{Database: "shop", Table: "t"}, true}, {ann, Resource{Database: "shop"}, true}, {ann, Resource{Database: "pop"}, false},
		{bot, Resource{Database: "shop"}, false},
	} {
		if got := set.Decide(c.caller, get, "read", c.on); got.Audit != c.want || got.Policy != "p0" {
			t.Errorf("%v on %v: %+v", c.caller, c.on, got)
		}
	}
}

func TestForbidWins(t *testing.T) {
	set := setOf(t, `permit (principal, action, resource);`, `forbid (principal, action, resource == Table::"shop/t");`,
		`forbid (principal, action, resource in Database::"shop");`)
	got := set.Decide(ann, get, "read", Resource{Database: "shop", Table: "t"})
	if got.Effect != Forbids || got.Policy != "p1" || !cmp.Equal(got.All, []string{"p1", "p2"}) {
		t.Errorf("got %+v", got)
	}
}

// TestWhatCannotBeDecidedForbids is the difference to Cedar, which leaves such policies out.
func TestWhatCannotBeDecidedForbids(t *testing.T) {
	over := `forbid (principal, action, resource) when { 9223372036854775807 + 1 > 0 };`
	p, err := Parse("p", over)
	if err != nil {
		t.Fatal(err)
	}
	set := &Set{policies: []*Policy{p}}
	if got := set.Decide(ann, get, "read", Resource{Database: "shop"}); got.Effect != Forbids || len(got.Errors) != 1 {
		t.Errorf("got %+v", got)
	}
	set = NewSet([]Row{{Name: "a", Text: "permit (principal, action, resource);"}, {Name: "b", Text: "what is this?"}})
	if got := set.Decide(root, get, "read", Resource{Database: "shop"}); got.Effect != Forbids || got.Policy != "b" {
		t.Errorf("a policy that cannot be read: %+v", got)
	}
	if set.Restricts(root, "shop") != "b" {
		t.Error("and SQL?")
	}
}

func TestRestricts(t *testing.T) {
	for _, c := range []struct {
		name, text string
		caller     *identity.Subject
		want       bool
	}{
		{"table", `forbid (principal, action, resource == Table::"shop/t");`, ann, true},
		{"table of another database", `forbid (principal, action, resource == Table::"pop/t");`, ann, false},
		{"table of a database whose name begins so", `forbid (principal, action, resource == Table::"shopping/t");`, ann, false},
		{"of others", `forbid (principal == User::"u_bob", action, resource == Table::"shop/t");`, ann, false},
		{"of all but a role, who has it", `forbid (principal, action, resource == Table::"shop/t") unless { principal in Role::"admin" };`, root, false},
		{"of all but a role, who has it not", `forbid (principal, action, resource == Table::"shop/t") unless { principal in Role::"admin" };`, ann, true},
		{"by a table's name", `forbid (principal, action, resource) when { resource is Table && resource.name == "t" };`, ann, true},
		{"by a table's name in the database", `forbid (principal, action, resource in Database::"shop") when { resource is Table && resource.name == "t" };`, ann, true},
		{"by a table's name in another", `forbid (principal, action, resource in Database::"pop") when { resource is Table && resource.name == "t" };`, ann, false},
		{"all tables", `forbid (principal, action, resource is Table);`, ann, true},
		{"all tables of another", `forbid (principal, action, resource is Table in Database::"pop");`, ann, false},
		{"the whole database", `forbid (principal, action in Action::"write", resource in Database::"shop");`, ann, false},
		{"everything", `forbid (principal, action, resource) when { principal.tenant == "acme" };`, ann, false},
		{"permit", `permit (principal, action, resource == Table::"shop/t");`, ann, false},
		{"rows", `@unless_row("o == principal.id") forbid (principal, action, resource == Table::"shop/t");`, ann, true},
	} {
		if got := setOf(t, c.text).Restricts(c.caller, "shop"); (got != "") != c.want {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

func TestFilter(t *testing.T) {
	set := setOf(t,
		`@unless_row("owner == principal.id") forbid (principal is User, action, resource == Table::"shop/t");`,
		`@unless_row("org == principal.tenant") forbid (principal, action, resource == Table::"shop/t") unless { principal in Role::"admin" };`)
	want := &Filter{Terms: []Term{{"owner", "u_ann"}, {"org", "acme"}}, Policy: "p0"}
	if got := set.Filter(ann, "shop", "t"); !cmp.Equal(got, want) {
		t.Errorf("ann: %+v", got)
	}
	if got := set.Filter(bot, "shop", "t"); !cmp.Equal(got, &Filter{Terms: []Term{{"org", ""}}, Policy: "p1"}) {
		t.Errorf("a service without a tenant: %+v", got)
	}
	if got := set.Filter(ann, "shop", "u"); got != nil {
		t.Errorf("another table: %+v", got)
	}
	if got := set.Decide(ann, get, "read", Resource{Database: "shop", Table: "t"}); got.Effect != Silent {
		t.Errorf("a policy of rows decides about the table: %+v", got)
	}
}

func TestVersion(t *testing.T) {
	a, b := Row{"a", "x"}, Row{"b", "y"}
	if VersionOf([]Row{a, b}) != VersionOf([]Row{b, a}) || VersionOf(nil) != "" {
		t.Error("order matters")
	}
	seen := make(map[string]bool)
	for _, rows := range [][]Row{{a}, {b}, {a, b}, {{"a", "xb"}}, {{"ax", ""}}, {{"", "ax"}}} {
		seen[VersionOf(rows)] = true
	}
	if len(seen) != 6 {
		t.Errorf("%d versions of 6", len(seen))
	}
}

func TestNames(t *testing.T) {
	for text, want := range map[string]bool{
		`forbid (principal, action, resource == Table::"shop/t");`:                                        true,
		`forbid (principal, action, resource in Table::"shop/t");`:                                        true,
		`forbid (principal, action, resource) when { resource is Table && resource == Table::"shop/t" };`: true,
		`forbid (principal, action, resource == Table::"shop/tt");`:                                       false,
		`forbid (principal, action, resource == Table::"pop/t");`:                                         false,
		`forbid (principal, action, resource == Database::"shop");`:                                       false,
		`not to be read`: true,
	} {
		if got := Names(text, "shop", "T"); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// FuzzPolicy holds that no text makes reading, checking or deciding fail, and that what was accepted decides without errors other
// than of numbers.
func FuzzPolicy(f *testing.F) {
	for _, seed := range []string{
		`permit (principal, action, resource);`,
		`forbid (principal in Role::"admin", action in [Action::"read", Action::"write"], resource is Table in Database::"shop") when { resource.name like "a*" } unless { principal.tenant == "x" };`,
		`@unless_row("owner == principal.id") @x forbid (principal, action, resource == Table::"shop/t");`,
		`permit (principal, action, resource) when { if principal has tenant then [1, 2].contains(3) else {"a": 1}.a == -1 };`,
		`permit (principal, action, resource) when { ip("10.0.0.1").isInRange(ip("10.0.0.0/8")) || decimal("1.5").lessThan(decimal("2.0")) };`,
		`permit (principal, action, resource) when { !!!!((((true)))) };`,
	} {
		f.Add(seed)
	}
	schema := testSchema(f)
	f.Fuzz(func(t *testing.T, text string) {
		_, err := schema.Check("p", text)
		set := NewSet([]Row{{Name: "p", Text: text}})
		if err == nil && set.Unreadable() != "" {
			t.Fatalf("was accepted, but cannot be read: %q", text)
		}
		for _, s := range []*identity.Subject{ann, bot, root} {
			for _, r := range []Resource{{Database: "shop"}, {Database: "shop", Table: "t"}, {Service: "a.B", Method: "C"}} {
				v := set.Decide(s, get, "read", r)
				if (v.Effect == Silent) != (v.Policy == "") {
					t.Fatalf("%q: %+v", text, v)
				}
				set.Restricts(s, "shop")
				set.Filter(s, "shop", "t")
			}
		}
		// What forbids a table and not its database has to be known beforehand.
		if whole, one := set.Decide(ann, get, "read", Resource{Database: "shop"}), set.Decide(ann, get, "read", Resource{Database: "shop", Table: "t"}); one.Effect == Forbids && whole.Effect != Forbids && set.Restricts(ann, "shop") == "" {
			t.Fatalf("%q: forbids a table, and nobody knows", text)
		}
	})
}
