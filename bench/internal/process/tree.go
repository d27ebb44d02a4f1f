package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process and all below it use.
type Usage struct {
	CPU    time.Duration // user and kernel mode, children that have ended included
	Memory uint64        // bytes; what several share counts once in all
}

// Usage returns what the process and all processes below it use.
func (p *Process) Usage() (u Usage, err error) {
	pids, err := tree(p.cmd.Process.Pid)
	if err != nil {
		return u, fmt.Errorf("usage of %s: %w", p.Name, err)
	}
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has just ended; its parent has its time
		}
		cpu, err := parseTimes(string(text))
		if err != nil {
			return u, fmt.Errorf("usage of %s: %w", p.Name, err)
		}
		u.CPU += cpu
		if text, err = os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid)); err != nil {
			continue
		}
		pss, err := parsePss(string(text))
		if err != nil {
			return u, fmt.Errorf("usage of %s: %w", p.Name, err)
		}
		u.Memory += pss
	}
	return u, nil
}

// tree returns a process and all below it.
func tree(root int) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has just ended
		}
		rest, ok := afterLast(string(text), ") ")
		fields := strings.Fields(rest)
		pid, pidErr := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if !ok || len(fields) < 2 || pidErr != nil {
			return nil, fmt.Errorf("%q is no line of stat", text)
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, err
		}
		children[parent] = append(children[parent], pid)
	}
	list := []int{root}
	for i := 0; i < len(list); i++ {
		list = append(list, children[list[i]]...)
	}
	return list, nil
}

// parseTimes sums utime, stime and those of children that have ended, the 14th to 17th field.
func parseTimes(text string) (time.Duration, error) {
	rest, ok := afterLast(text, ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 15 {
		return 0, fmt.Errorf("%q is no line of stat", text)
	}
	var ticks uint64
	for _, field := range fields[11:15] {
		n, err := strconv.ParseUint(field, 10, 48)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// parsePss finds a process's share of the memory that it has.
func parsePss(text string) (uint64, error) {
	for line := range strings.Lines(text) {
		if name, field, _ := strings.Cut(line, ":"); name == "Pss" {
			kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(field), "kB")), 10, 48)
			return kib << 10, err
		}
	}
	return 0, errors.New("smaps_rollup has no Pss")
}
