package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"time"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/pki"
)

// locateTimeout is how long one question after the token may take.
const locateTimeout = 3 * time.Second

// findToken has a sidecar without a token join with the one that the primary keeps on this machine, where the primary takes nodes
// alone. Who may read that file may join: the primary only says where it is. A primary that takes others too, or does not know the
// question, is followed without a certificate.
func (s *Sidecar) findToken(ctx context.Context, primary string) error {
	u, err := url.Parse(primary)
	if err != nil {
		return err
	}
	if u.Scheme == "https" {
		return s.notJoined(primary, errors.New("over https it answers nodes of the mesh alone"))
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	client := httpclient.NewUnary()
	defer client.CloseIdleConnections()
	nodes := controlv1connect.NewNodeServiceClient(client, primary)
	for {
		asking, done := context.WithTimeout(ctx, locateTimeout)
		res, err := nodes.LocateToken(asking, connect.NewRequest(&controlv1.LocateTokenRequest{}))
		done()
		_, held := s.store.Identity()
		switch {
		case err == nil:
			return s.joinWith(primary, res.Msg)
		case connect.CodeOf(err) == connect.CodeUnimplemented, connect.CodeOf(err) == connect.CodeUnauthenticated:
			return nil // of a build that has no such question
		case connect.IsWireError(err), isBadRequest(err):
			return s.notJoined(primary, err)
		case held:
			// It goes on with the copy that it has from before there were certificates.
			s.logger.WarnContext(ctx, "the primary does not say whether nodes need a certificate", slog.Any("error", err))
			return nil
		}
		timer := time.NewTimer(joinInterval/2 + rand.N(joinInterval/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("the primary at %s does not answer: %w", primary, err)
		}
	}
}

// isBadRequest reports whether a listener takes no plaintext.
func isBadRequest(err error) bool {
	return connect.CodeOf(err) == connect.CodeInternal || connect.CodeOf(err) == connect.CodeInvalidArgument ||
		connect.CodeOf(err) == connect.CodeUnknown
}

// joinWith has the sidecar join with the token that the primary has named, if it has to.
func (s *Sidecar) joinWith(primary string, m *controlv1.LocateTokenResponse) error {
	if !m.GetRequired() {
		return nil
	}
	file := m.GetFile()
	if file == "" {
		return s.notJoined(primary, errors.New("it is on another machine"))
	}
	// A primary that starts has perhaps not written it yet; one that this process may not read, it never may.
	if f, err := os.Open(file); err == nil {
		_ = f.Close() // it was only read
	} else if !errors.Is(err, fs.ErrNotExist) {
		return s.notJoined(primary, err)
	}
	s.config.Join = func(context.Context) (pki.JoinToken, error) { return pki.ReadJoinToken(file) }
	return nil
}

// notJoined says what to do.
func (s *Sidecar) notJoined(primary string, why error) error {
	return fmt.Errorf("%w: the primary at %s takes sidecars with a certificate alone, and gives region %s none by itself: %w. "+
		"Make a token there, nearside node token --region %[3]s --out FILE, and start with --join FILE",
		ErrNotJoined, primary, s.config.Region, why)
}
