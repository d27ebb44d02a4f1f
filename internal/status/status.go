// Package status puts the mesh's state together from what each region says of itself. The primary and every gateway answer
// StatusService with it.
package status

import (
	"context"
	"errors"
	"net/http"
	"sort"
	"sync"
	"time"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/meshdb"
)

const (
	// Timeout is how long a region has to answer.
	Timeout = time.Second
	// maxAsked is how many regions are asked at once.
	maxAsked = 32
)

// Gather asks the regions for their own state and returns all of them, the primary's first, then by name. own is the
// answering node's region, which is not asked; nil where it is none. A region that does not answer is listed with the
// reason. req is what was asked of this node.
func Gather(
	ctx context.Context, client *http.Client, regions []meshdb.Region, own *controlv1.GetStatusResponse_Region,
	req *controlv1.GetStatusRequest,
) *controlv1.GetStatusResponse {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	answers := make([]*controlv1.GetStatusResponse_Region, 0, len(regions)+1)
	if own != nil {
		answers = append(answers, own)
	}
	var mu sync.Mutex
	var asked sync.WaitGroup
	slots := make(chan struct{}, maxAsked)
	for _, r := range regions {
		if own != nil && r.Name == own.GetName() {
			continue
		}
		slots <- struct{}{}
		asked.Go(func() {
			defer func() { <-slots }()
			answer := ask(ctx, client, r, req)
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, answer)
		})
	}
	asked.Wait()
	sort.Slice(answers, func(i, j int) bool {
		if answers[i].GetPrimary() != answers[j].GetPrimary() {
			return answers[i].GetPrimary()
		}
		return answers[i].GetName() < answers[j].GetName()
	})
	return &controlv1.GetStatusResponse{Regions: answers}
}

func ask(
	ctx context.Context, client *http.Client, r meshdb.Region, req *controlv1.GetStatusRequest,
) *controlv1.GetStatusResponse_Region {
	own := connect.NewRequest(&controlv1.GetStatusRequest{LocalOnly: true, Fallbacks: req.GetFallbacks()})
	access.PassOn(ctx, own.Header())
	res, err := controlv1connect.NewStatusServiceClient(client, r.URL).GetStatus(ctx, own)
	if err == nil && len(res.Msg.GetRegions()) != 1 {
		err = errors.New("answered with no region")
	}
	if err != nil {
		return &controlv1.GetStatusResponse_Region{
			Name: r.Name, Url: r.URL, Primary: r.IsPrimary, Reason: "does not answer: " + err.Error(),
		}
	}
	return res.Msg.GetRegions()[0]
}
