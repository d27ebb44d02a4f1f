package cli

import (
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
)

// maxDescriptorBytes is how large a file of descriptors may be.
const maxDescriptorBytes = 8 << 20

func (app *App) serviceCommand() *cobra.Command {
	var to target
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Register services of others with the gateways, list and remove them",
		RunE:  missingCommand,
	}
	to.register(cmd)
	cmd.AddCommand(app.serviceRegisterCommand(&to), app.serviceListCommand(&to), app.serviceRemoveCommand(&to))
	return cmd
}

func (app *App) serviceRegisterCommand(to *target) *cobra.Command {
	var file, name, region, role, protocol string
	var endpoints, caches []string
	var public, pass, noValidate bool
	cmd := &cobra.Command{
		Use:   "register --descriptors FILE --endpoint URL",
		Short: "Have all gateways reach a Connect or gRPC service",
		Long: `Have all gateways reach a Connect or gRPC service, in place of what was registered under its
name before. The descriptors are a FileDescriptorSet: buf build -o FILE, or
protoc --include_imports -o FILE.

An endpoint that is near to a region is written REGION=URL; one without is of --region, or of
each. Who has shown a credential may call the service, unless --public or --role says otherwise.

Requests are checked against the rules of buf.validate in the descriptors before they go on, unless
--no-validate leaves that to the service.

With --cache each region keeps a method's answers to unary calls and gives them again: for the ttl,
then up to stale while it asks anew in the background, by the fields of the request that key names
(all of it without), and until one of the tables changes.`,
		Example: `  nearside service register --descriptors echo.binpb --endpoint http://127.0.0.1:9000
  nearside service register --descriptors echo.binpb \
    --endpoint us-east-1=http://10.0.0.5:9000 --endpoint eu-west-1=http://10.1.0.5:9000`,
		Args: cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			req := &controlv1.RegisterServiceRequest{Name: name, Role: role, PassCredentials: pass}
			switch {
			case public && role != "":
				return usagef("--public and --role do not go together")
			case public:
				req.Access = controlv1.ServiceAccess_SERVICE_ACCESS_PUBLIC
			case role != "":
				req.Access = controlv1.ServiceAccess_SERVICE_ACCESS_ROLE
			}
			switch protocol {
			case "connect":
			case "grpc":
				req.Protocol = controlv1.ServiceProtocol_SERVICE_PROTOCOL_GRPC
			default:
				return usagef("--protocol %s: want connect or grpc", protocol)
			}
			req.SkipValidation = noValidate
			for _, text := range caches {
				rule, err := cacheRuleOf(text)
				if err != nil {
					return err
				}
				req.CacheRules = append(req.CacheRules, rule)
			}
			for _, e := range endpoints {
				req.Endpoints = append(req.Endpoints, endpointOf(e, region))
			}
			var err error
			if req.Descriptors, err = app.readFile(file, maxDescriptorBytes); err != nil {
				return err
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.services.RegisterService(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			if app.JSON {
				return app.WriteJSON(struct {
					serviceJSON

					Replaced bool `json:"replaced"`
				}{serviceJSONOf(res.Msg.GetService()), res.Msg.GetReplaced()})
			}
			s := res.Msg.GetService()
			app.printf(app.Stdout, "%s is registered: %d methods, %d endpoints, %s\n", s.GetName(), len(s.GetMethods()),
				len(s.GetEndpoints()), accessText(s))
			return nil
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "descriptors", "", "file of the service's FileDescriptorSet, - is standard input")
	flags.StringVar(&name, "name", "", "full name of the service, where the descriptors have several")
	flags.StringArrayVar(&endpoints, "endpoint", nil, "where it answers: URL or REGION=URL; may be given several times")
	flags.StringVar(&region, "region", "", "the region that endpoints without one are near to (default each)")
	flags.BoolVar(&public, "public", false, "let everybody call it, without a credential")
	flags.StringVar(&role, "role", "", "let only those call it who have a role: admin, or reader, writer or owner with :DATABASE")
	flags.StringVar(&protocol, "protocol", "connect", "what it speaks: connect, which is gRPC too, or grpc alone")
	flags.BoolVar(&pass, "pass-credentials", false, "let it see its callers' credentials: it can do what they may")
	flags.BoolVar(&noValidate, "no-validate", false, "pass requests on without a check against the descriptors' buf.validate rules")
	flags.StringArrayVar(&caches, "cache", nil,
		"keep a method's answers in the regions: METHOD,ttl=10s[,stale=1m][,key=FIELD][,table=DATABASE/TABLE]; may be given several times")
	_ = cmd.MarkFlagRequired("descriptors") // they are there
	_ = cmd.MarkFlagRequired("endpoint")
	return cmd
}

// endpointOf reads URL or REGION=URL.
func endpointOf(text, region string) *controlv1.ServiceEndpoint {
	if before, after, ok := strings.Cut(text, "="); ok && !strings.Contains(before, ":") {
		return &controlv1.ServiceEndpoint{Region: before, Url: after}
	}
	return &controlv1.ServiceEndpoint{Region: region, Url: text}
}

// serviceJSON is a service as programs read it.
type serviceJSON struct {
	Name            string          `json:"name"`
	Endpoints       []endpointJSON  `json:"endpoints"`
	Access          string          `json:"access"` // public, authenticated or role
	Role            string          `json:"role,omitempty"`
	PassCredentials bool            `json:"passCredentials"`
	Protocol        string          `json:"protocol"` // connect or grpc
	SkipValidation  bool            `json:"skipValidation"`
	Methods         []methodJSON    `json:"methods"`
	CacheRules      []cacheRuleJSON `json:"cacheRules"`
	RegisteredAt    string          `json:"registeredAt"` // RFC 3339
}

type endpointJSON struct {
	Region string `json:"region"` // "" is each
	URL    string `json:"url"`
	State  string `json:"state,omitempty"` // up, suspect, down or ejected, as the asked gateway sees it
}

type methodJSON struct {
	Name            string `json:"name"`
	ClientStreaming bool   `json:"clientStreaming"`
	ServerStreaming bool   `json:"serverStreaming"`
	NoSideEffects   bool   `json:"noSideEffects"`
	Validated       bool   `json:"validated"` // its requests have rules, which are checked
}

func serviceJSONOf(s *controlv1.RegisteredService) serviceJSON {
	out := serviceJSON{
		Name: s.GetName(), Access: accessName(s), Role: s.GetRole(), PassCredentials: s.GetPassCredentials(), SkipValidation: s.GetSkipValidation(),
		Protocol:  strings.ToLower(strings.TrimPrefix(s.GetProtocol().String(), "SERVICE_PROTOCOL_")),
		Endpoints: []endpointJSON{}, Methods: []methodJSON{}, CacheRules: cacheRulesJSON(s.GetCacheRules()), RegisteredAt: s.GetRegisterTime().AsTime().Format(time.RFC3339),
	}
	for _, e := range s.GetEndpoints() {
		out.Endpoints = append(out.Endpoints, endpointJSON{Region: e.GetRegion(), URL: e.GetUrl(), State: stateText(e)})
	}
	for _, m := range s.GetMethods() {
		out.Methods = append(out.Methods, methodJSON{m.GetName(), m.GetClientStreaming(), m.GetServerStreaming(), m.GetNoSideEffects(), m.GetValidated()})
	}
	return out
}

func accessName(s *controlv1.RegisteredService) string {
	return strings.ToLower(strings.TrimPrefix(s.GetAccess().String(), "SERVICE_ACCESS_"))
}

// stateText is how an endpoint is, "" where that is not known.
func stateText(e *controlv1.ServiceEndpoint) string {
	if e.GetState() == controlv1.EndpointState_ENDPOINT_STATE_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(e.GetState().String(), "ENDPOINT_STATE_"))
}

// accessText says who may call a service.
func accessText(s *controlv1.RegisteredService) string {
	if s.GetRole() != "" {
		return s.GetRole()
	}
	return accessName(s)
}

func (app *App) serviceListCommand(to *target) *cobra.Command {
	var format *string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the registered services, and how their endpoints are as the gateway sees them",
		Args:  cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			if err := app.chooseFormat(cmd, format, listFormats); err != nil {
				return err
			}
			res, err := to.services.ListServices(cmd.Context(), connect.NewRequest(&controlv1.ListServicesRequest{}))
			if err != nil {
				return err
			}
			if app.JSON {
				services := make([]serviceJSON, len(res.Msg.GetServices()))
				for i, s := range res.Msg.GetServices() {
					services[i] = serviceJSONOf(s)
				}
				return app.WriteJSON(map[string][]serviceJSON{"services": services})
			}
			var rows [][]string
			for _, s := range res.Msg.GetServices() {
				for _, e := range s.GetEndpoints() {
					rows = append(rows, []string{
						s.GetName(), strconv.Itoa(len(s.GetMethods())), accessText(s), e.GetRegion(), e.GetUrl(), stateText(e),
					})
				}
			}
			return app.writeList(*format, []string{"service", "methods", "access", "region", "endpoint", "state"}, rows,
				[]bool{false, true, false, false, false, false})
		}),
	}
	format = listFormat(cmd)
	return cmd
}

func (app *App) serviceRemoveCommand(to *target) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "remove NAME --yes",
		Short: "Have all gateways forget a service",
		Args:  cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if !yes {
				return usagef("callers of %s will find nothing: say --yes if that is meant", args[0])
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			_, err := to.services.RemoveService(cmd.Context(), connect.NewRequest(&controlv1.RemoveServiceRequest{Name: args[0]}))
			if err != nil {
				return err
			}
			if app.JSON {
				return app.WriteJSON(map[string]string{"removed": args[0]})
			}
			app.printf(app.Stdout, "%s is removed\n", args[0])
			return nil
		}),
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "remove without asking")
	return cmd
}
