package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nearside-dev/nearside/bench/internal/node"
	"github.com/nearside-dev/nearside/bench/internal/process"
	"github.com/nearside-dev/nearside/internal/histogram"
)

// postgres is a PostgreSQL server of our own, with its defaults: writes are on the disk before they are answered. pgbench asks
// it in its own protocol.
type postgres struct {
	settings *settings
	dir      string // of the data
	programs string // folder with initdb, next to postgres itself
	pgbench  string
	psql     string
	as       *syscall.Credential // PostgreSQL refuses to run as root; nil: as we do
	port     string
}

func startPostgres(ctx context.Context, s *settings, dir string) (*running, error) {
	pg, err := findPostgres(s, dir)
	if err != nil {
		return nil, err
	}
	addr, err := process.FreeAddr(ctx, 1)
	if err != nil {
		return nil, err
	}
	if _, pg.port, err = net.SplitHostPort(addr); err != nil {
		return nil, err
	}
	if err := pg.run(ctx, "", filepath.Join(pg.programs, "initdb"), "-D", pg.dir, "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-sync"); err != nil {
		return nil, err
	}
	p, err := process.StartCommand("postgres", pg.command(context.WithoutCancel(ctx), filepath.Join(pg.programs, "postgres"),
		"-D", pg.dir, "-p", pg.port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "max_connections="+strconv.Itoa(s.clients+20)))
	if err != nil {
		return nil, err
	}
	err = node.Await(ctx, p, func(ctx context.Context) error {
		return pg.run(ctx, "SELECT 1;", pg.psql, pg.client()...)
	})
	if err == nil {
		err = pg.run(ctx, fmt.Sprintf(`CREATE TABLE bench_rows (id bigint PRIMARY KEY, n bigint NOT NULL, body text NOT NULL);
			INSERT INTO bench_rows SELECT i, 0, repeat('x', %d) FROM generate_series(0, %d) i; VACUUM ANALYZE bench_rows; CHECKPOINT;`,
			len(payload), s.rows-1), pg.psql, append(pg.client(), "-v", "ON_ERROR_STOP=1")...)
	}
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return &running{servers: []*process.Process{p}, stop: p.Stop, calls: []call{
		pg.call("SELECT by id, prepared, pgbench", "SELECT id, n, body FROM bench_rows WHERE id = :id;"),
		pg.call("durable UPDATE by id, prepared, pgbench", "UPDATE bench_rows SET n = :value WHERE id = :id;"),
	}}, nil
}

// findPostgres finds the programs, and the user to run the server as.
func findPostgres(s *settings, dir string) (*postgres, error) {
	pg := &postgres{settings: s, dir: filepath.Join(dir, "data")}
	server, err := exec.LookPath("postgres")
	if err != nil {
		return nil, errNotInstalled
	}
	if server, err = filepath.EvalSymlinks(server); err != nil {
		return nil, err
	}
	pg.programs = filepath.Dir(server)
	if _, err := os.Stat(filepath.Join(pg.programs, "initdb")); err != nil {
		return nil, errNotInstalled
	}
	for _, client := range []struct {
		name string
		to   *string
	}{{"pgbench", &pg.pgbench}, {"psql", &pg.psql}} {
		if *client.to = filepath.Join(pg.programs, client.name); !executable(*client.to) {
			if *client.to, err = exec.LookPath(client.name); err != nil {
				return nil, errNotInstalled
			}
		}
	}
	if os.Geteuid() != 0 {
		return pg, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, err
		}
		pg.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		return pg, os.Chown(dir, int(uid), int(gid))
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody")
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&0o111 != 0
}

// client is how the server is reached.
func (pg *postgres) client() []string {
	return []string{"-h", "127.0.0.1", "-p", pg.port, "-U", "bench", "postgres"}
}

func (pg *postgres) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // what to run is what this program is told to measure
	cmd.Dir = filepath.Dir(pg.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: pg.as}
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+cmd.Dir)
	return cmd
}

// run runs a program to its end. What it wrote is in the error.
func (pg *postgres) run(ctx context.Context, stdin, program string, args ...string) error {
	cmd := pg.command(ctx, program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(program), err, out)
	}
	return nil
}

// call is a statement that pgbench runs.
func (pg *postgres) call(name, statement string) call {
	return call{name: name, run: func(ctx context.Context, d time.Duration) (_ *outcome, err error) {
		dir, err := os.MkdirTemp(filepath.Dir(pg.dir), "pgbench-")
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		script := fmt.Sprintf("\\set id random(0, %d)\n\\set value random(0, 1000000000)\n%s\n", pg.settings.rows-1, statement)
		if err := os.WriteFile(filepath.Join(dir, "script"), []byte(script), 0o644); err != nil { //nolint:gosec // another user reads it
			return nil, err
		}
		if pg.as != nil {
			if err := os.Chown(dir, int(pg.as.Uid), int(pg.as.Gid)); err != nil {
				return nil, err
			}
		}
		seconds := max(1, int(d.Round(time.Second).Seconds())) // it knows no shorter time
		args := append([]string{
			"-n", "-M", "prepared", "-c", strconv.Itoa(pg.settings.clients), "-j", "2", "-T", strconv.Itoa(seconds),
			"-f", filepath.Join(dir, "script"), "-l", "--log-prefix", filepath.Join(dir, "log"),
		}, pg.client()...)
		begun := time.Now()
		if err := pg.run(ctx, "", pg.pgbench, args...); err != nil {
			return nil, err
		}
		o := &outcome{elapsed: min(time.Since(begun), time.Duration(seconds)*time.Second)}
		return o, o.readLogs(dir)
	}}
}

// readLogs takes the latencies from pgbench's logs: the third word of a line, in microseconds.
func (o *outcome) readLogs(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "log.*"))
	if err != nil {
		return err
	}
	var h histogram.Histogram
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
			words := strings.Fields(lines.Text())
			if len(words) < 3 {
				return fmt.Errorf("%q is no line of pgbench's log", lines.Text())
			}
			us, err := strconv.ParseInt(words[2], 10, 64)
			if err != nil {
				return fmt.Errorf("%q is no line of pgbench's log", lines.Text())
			}
			h.Record(time.Duration(us) * time.Microsecond)
		}
	}
	if h.Count() == 0 {
		return errors.New("pgbench logged no transaction")
	}
	o.requests, o.p50, o.p99 = h.Count(), h.Quantile(0.5), h.Quantile(0.99)
	return nil
}
