package main

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/nearside-dev/nearside/internal/meshtest/testcert"
)

// TestUpWithTLS has callers use TLS, services in the process do without, and plaintext be refused.
func TestUpWithTLS(t *testing.T) {
	cert, key := testcert.Write(t, t.TempDir())
	dir, port := t.TempDir(), fmt.Sprint(freePort(t, 2))
	up := startRole(t, "up", "--dir", dir, "--port", port, "--regions", "a,b", "--tls-cert", cert, "--tls-key", key, "--json")
	url := decode[places](t, up.line(t)).Regions[1].URL
	if !strings.HasPrefix(url, "https://") {
		t.Fatalf("the gateway is at %s", url)
	}
	run := func(args ...string) (string, error) {
		cmd := exec.Command(program, args...)
		cmd.Env = []string{"HOME=/", "NEARSIDE_TOKEN=" + tokenIn(t, dir)}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("sql", "--url", url, "--ca", cert, "SELECT 1"); err != nil {
		t.Errorf("over TLS: %v\n%s", err, out)
	}
	if out, err := run("status", "--url", url, "--ca", cert, "--json"); err != nil || strings.Count(out, `"ready":true`) != 2 {
		t.Errorf("status: %v\n%s", err, out)
	}
	if out, err := run("sql", "--url", url, "SELECT 1"); err == nil || !strings.Contains(out, "certificate") {
		t.Errorf("a certificate that is not known: %v\n%s", err, out)
	}
	// Services in the process call the gateway.
	body := strings.NewReader(`{"email":"ada@example.org","name":"Ada"}`)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: testcert.Trusting(t, cert)}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodPost, url+"/nearside.business.v1.UserService/CreateUser", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+tokenIn(t, dir))
	user, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer user.Body.Close()
	if text, err := io.ReadAll(user.Body); err != nil || user.StatusCode != http.StatusOK {
		t.Errorf("a service: %s %q, %v", user.Status, text, err)
	}
	res, err := client.Get("http://" + strings.TrimPrefix(url, "https://") + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "https://") {
		t.Errorf("plaintext: %s %q, %v", res.Status, text, err)
	}
	if code := up.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
