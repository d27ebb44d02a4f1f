package verify

import (
	"context"
	"net/http"
	"slices"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// Ask has another node check what it has, and returns its results, or one with the error where it does not answer. region
// and primary say which node it is.
func Ask(
	ctx context.Context, client *http.Client, url, region string, primary bool, req *controlv1.VerifyRequest,
) []*controlv1.VerifyResult {
	ask := connect.NewRequest(&controlv1.VerifyRequest{Database: req.GetDatabase(), Deep: req.GetDeep(), LocalOnly: true})
	access.PassOn(ctx, ask.Header())
	res, err := controlv1connect.NewVerifyServiceClient(client, url).Verify(ctx, ask)
	if err != nil {
		return []*controlv1.VerifyResult{{Region: region, Primary: primary, Error: "does not answer: " + err.Error()}}
	}
	return res.Msg.GetResults()
}

// Round has the wanted regions check their copies, one after the other, because each reads all of the primary's rows. own
// is called for the region of that name, which is the caller's own; "" is none.
func Round(
	ctx context.Context, client *http.Client, regions []meshdb.Region, req *controlv1.VerifyRequest,
	ownRegion string, own func() []*controlv1.VerifyResult,
) []*controlv1.VerifyResult {
	var results []*controlv1.VerifyResult
	for _, r := range regions {
		switch {
		case !Wanted(req, r.Name):
		case r.Name == ownRegion:
			results = append(results, own()...)
		default:
			results = append(results, Ask(ctx, client, r.URL, r.Name, false, req)...)
		}
	}
	return results
}

// Wanted reports whether a region's copies are to be compared.
func Wanted(req *controlv1.VerifyRequest, region string) bool {
	return len(req.GetRegions()) == 0 || slices.Contains(req.GetRegions(), region)
}

// CheckRegions refuses regions that the mesh does not have.
func CheckRegions(req *controlv1.VerifyRequest, regions []meshdb.Region) error {
	for _, name := range req.GetRegions() {
		if !slices.ContainsFunc(regions, func(r meshdb.Region) bool { return r.Name == name }) {
			return rpcerr.InvalidField("regions", "there is no region %q", name)
		}
	}
	return nil
}
