package forward

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

func (r *region) queryStream(
	ctx context.Context, t *testing.T, each func(*datav1.QueryStreamResponse),
) (*connect.ServerStreamForClient[datav1.QueryStreamResponse], error) {
	t.Helper()
	in, err := r.client.QueryStream(ctx, connect.NewRequest(&datav1.QueryStreamRequest{Database: "d", Statement: statement()}))
	if err != nil {
		t.Fatal(err)
	}
	for in.Receive() {
		each(in.Msg())
	}
	err = in.Err()
	in.Close()
	return in, err
}

func piece(rows int) *datav1.QueryStreamResponse {
	m := &datav1.QueryStreamResponse{Answer: &datav1.Answer{Region: "us-east-1", Bookmark: "b1"}}
	for range rows {
		m.Rows = append(m.Rows, &datav1.Row{})
	}
	return m
}

func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		r := newRegion(t, stub{stream: func(_ context.Context, out *connect.ServerStream[datav1.QueryStreamResponse]) error {
			if attempts++; attempts == 1 {
				hangUp() // before the first message, so there is another attempt
			}
			for rows := range 5 {
				time.Sleep(DefaultTimeout) // only the first message has to come within it
				if err := out.Send(piece(rows)); err != nil {
					return err
				}
				if rows == 0 {
					time.Sleep(time.Minute)
				}
			}
			return nil
		}}.handler(), Options{Timeout: DefaultTimeout + time.Second})
		rows := 0
		in, err := r.queryStream(t.Context(), t, func(m *datav1.QueryStreamResponse) {
			rows += len(m.Rows)
			if m.Answer.Region != "eu-west-1" {
				t.Errorf("region is %q", m.Answer.Region)
			}
		})
		if err != nil || rows != 10 || attempts != 2 {
			t.Errorf("%d rows in %d attempts, %v", rows, attempts, err)
		}
		if got := in.ResponseHeader().Get("nearside-bookmark"); got != "b1" {
			t.Errorf("bookmark header is %q", got)
		}
	})
}

func TestStreamEndsEarly(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func() error
		want func(t *testing.T, err error)
	}{
		{"without rows", func() error { return nil }, func(t *testing.T, err error) {
			if err != nil {
				t.Error(err)
			}
		}},
		{"cut", func() error { hangUp(); return nil }, func(t *testing.T, err error) {
			wantReason(t, err, unavailable)
		}},
		{"error", func() error { return connect.NewError(connect.CodeInvalidArgument, errTest) }, func(t *testing.T, err error) {
			if connect.CodeOf(err) != connect.CodeInvalidArgument {
				t.Error(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, pieces := range []int{0, 1} {
				synctest.Test(t, func(t *testing.T) {
					r := newRegion(t, stub{stream: func(
						_ context.Context, out *connect.ServerStream[datav1.QueryStreamResponse],
					) error {
						for range pieces {
							if err := out.Send(piece(1)); err != nil {
								return err
							}
						}
						return tt.end()
					}}.handler(), Options{})
					got := 0
					_, err := r.queryStream(t.Context(), t, func(*datav1.QueryStreamResponse) { got++ })
					tt.want(t, err)
					if got != pieces {
						t.Errorf("%d of %d pieces", got, pieces)
					}
				})
			}
		})
	}
}

// A caller who goes away ends the work at the primary.
func TestStreamCallerGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		r := newRegion(t, stub{stream: func(ctx context.Context, out *connect.ServerStream[datav1.QueryStreamResponse]) error {
			if err := out.Send(piece(1)); err != nil {
				return err
			}
			<-ctx.Done()
			ended <- ctx.Err()
			return ctx.Err()
		}}.handler(), Options{})
		ctx, cancel := context.WithCancel(t.Context())
		_, err := r.queryStream(ctx, t, func(*datav1.QueryStreamResponse) { cancel() })
		if connect.CodeOf(err) != connect.CodeCanceled {
			t.Errorf("error is %v", err)
		}
		if err := <-ended; err == nil {
			t.Error("the primary's work goes on")
		}
	})
}

// Streams have places of their own.
func TestStreamsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		finish := make(chan struct{})
		registry := prometheus.NewRegistry()
		r := newRegion(t, stub{
			stream: func(context.Context, *connect.ServerStream[datav1.QueryStreamResponse]) error { <-finish; return nil },
			query:  func(context.Context) error { return nil },
		}.handler(), Options{MaxInFlight: 1, MaxStreams: 2, Registerer: registry})
		ended := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := r.queryStream(t.Context(), t, func(*datav1.QueryStreamResponse) {})
				ended <- err
			}()
		}
		synctest.Wait()
		_, err := r.queryStream(t.Context(), t, func(*datav1.QueryStreamResponse) {})
		if e := wantReason(t, err, overloaded); e.RetryAfter() == 0 || e.Metadata("limit") != "2" {
			t.Errorf("retry after %v, limit %q", e.RetryAfter(), e.Metadata("limit"))
		}
		if got := calls(t, registry, "QueryStream", "overloaded"); got != 1 {
			t.Errorf("%v refusals counted", got)
		}
		if err := r.query(t.Context()); err != nil {
			t.Errorf("a call beside them: %v", err)
		}
		close(finish)
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}
