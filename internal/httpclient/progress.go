package httpclient

import (
	"context"
	"io"
	"net/http"
)

type progressKey struct{}

// WithProgress returns a context for a stream of a client of NewStreaming: progress is called each time that some of the answer has come,
// by whoever waits for its next message. Over a slow link one message may take long, and nothing else comes meanwhile.
func WithProgress(ctx context.Context, progress func()) context.Context {
	return context.WithValue(ctx, progressKey{}, progress)
}

// watched has an answer's progress told, if somebody wants to know.
func watched(ctx context.Context, res *http.Response) {
	if progress, ok := ctx.Value(progressKey{}).(func()); ok {
		res.Body = &progressBody{ReadCloser: res.Body, progress: progress}
	}
}

type progressBody struct {
	io.ReadCloser

	progress func()
}

// Read implements io.Reader.
func (b *progressBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.progress()
	}
	return n, err
}
