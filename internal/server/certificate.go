package server

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// lookAgain is how long files are taken to be what they were.
const lookAgain = time.Second

// Certificate is a certificate in files, which are read again when they change. It may be used concurrently.
type Certificate struct {
	certFile, keyFile string
	logger            *slog.Logger

	mu      sync.Mutex
	now     *tls.Certificate
	seen    [2]stamp
	lookAt  time.Time
	badSeen [2]stamp // files that could not be used, so that they are logged once
}

// stamp tells one content of a file from the next.
type stamp struct {
	modified time.Time
	size     int64
}

// LoadCertificate reads a certificate, with those behind it, and its key from PEM files.
func LoadCertificate(certFile, keyFile string, logger *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, logger: logger}
	seen, err := c.stamps()
	if err != nil {
		return nil, err
	}
	return c, c.load(seen)
}

func (c *Certificate) load(seen [2]stamp) error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	c.now, c.seen = &pair, seen
	return nil
}

func (c *Certificate) stamps() (stamps [2]stamp, err error) {
	for i, name := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return stamps, err
		}
		stamps[i] = stamp{info.ModTime(), info.Size()}
	}
	return stamps, nil
}

// current returns the certificate. Where the files cannot be used, half-written say, it stays what it was.
func (c *Certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Before(c.lookAt) {
		return c.now
	}
	c.lookAt = now.Add(lookAgain)
	seen, err := c.stamps()
	if err == nil && seen == c.seen {
		return c.now
	}
	if err == nil {
		err = c.load(seen)
	}
	if err != nil && (seen != c.badSeen || seen == [2]stamp{}) {
		c.badSeen = seen
		c.logger.Warn("certificate not read again", slog.Any("error", err))
	} else if err == nil {
		c.logger.Info("certificate read again", slog.Time("expires", c.now.Leaf.NotAfter))
	}
	return c.now
}

// Config returns the TLS of a listener with the certificate: 1.3, with HTTP/2 or HTTP/1.1.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil },
	}
}
