//go:build unix

package process

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func appendLog(t *testing.T, l *logFile, s string) {
	t.Helper()
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(s); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// logs returns the log's files that exist, newest first.
func logs(t *testing.T, l *logFile) (out []string) {
	t.Helper()
	for i := 0; i <= l.keep+1; i++ {
		path := l.path
		if i > 0 {
			path = l.old(i)
		}
		data, err := os.ReadFile(path)
		if err == nil {
			out = append(out, string(data))
		}
	}
	return out
}

func TestRotationKeepsWhatFits(t *testing.T) {
	l := newLogFile(filepath.Join(t.TempDir(), "node.log"), 4, 3)
	if err := l.rotateIfLong(); err != nil {
		t.Errorf("no log yet: %v", err)
	}
	for i := range 6 {
		appendLog(t, l, fmt.Sprintf("entry %d\n", i))
		if err := l.rotateIfLong(); err != nil {
			t.Fatal(err)
		}
	}
	appendLog(t, l, "new")
	if err := l.rotateIfLong(); err != nil {
		t.Fatal(err)
	}
	want := []string{"new", "entry 5\n", "entry 4\n", "entry 3\n"}
	if got := logs(t, l); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("kept %q, want %q", got, want)
	}
}

// A rotation that was cut short after the truncation has left the only copy
// under the name of a copy that is not finished.
func TestRotationCutShort(t *testing.T) {
	l := newLogFile(filepath.Join(t.TempDir(), "node.log"), 4, 3)
	appendLog(t, l, "first\n")
	if err := l.drainTo(l.old(1) + ".new"); err != nil {
		t.Fatal(err)
	}
	appendLog(t, l, "second\n")
	if err := l.rotateIfLong(); err != nil {
		t.Fatal(err)
	}
	want := []string{"", "second\n", "first\n"}
	if got := logs(t, l); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("kept %q, want %q", got, want)
	}
}

// Rotation while the software writes as fast as it can: what is kept is there
// once and in order, and nothing is torn but the last line of a file, which was
// being written when the file was truncated.
func TestRotationWhileWriting(t *testing.T) {
	t.Parallel()
	spec := newSpec(t, "lines")
	spec.LogMax, spec.LogKeep = 100_000, 1000
	p := started(t, spec)
	rotated := func(n int) bool { _, err := os.Stat(p.logs.old(n)); return err == nil }
	for !rotated(5) {
		if !p.running() {
			t.Fatal(p.Exit())
		}
		if err := p.RotateLogs(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Stop(context.Background(), time.Minute); err != nil {
		t.Fatal(err)
	}
	all := logs(t, p.logs)
	if err := checkLines(all); err != nil {
		t.Error(err)
	}
	// The check finds each fault that it is there for.
	for name, spoil := range map[string]func(in []string) []string{
		"repeated": func(in []string) []string { return append([]string{in[0]}, in...) },
		"reversed": func(in []string) []string { return []string{in[1], in[0]} },
		"torn":     func(in []string) []string { return []string{in[0][20:], in[1]} },
	} {
		if checkLines(spoil(all[len(all)-2:])) == nil {
			t.Errorf("%s: not found", name)
		}
	}
}

// checkLines checks the log's files, newest first.
func checkLines(files []string) error {
	last := 0
	tail := strings.Repeat("x", 80)
	for i := len(files) - 1; i >= 0; i-- {
		for line := range strings.Lines(files[i]) {
			var n int
			var x string
			if i > 0 && !strings.HasSuffix(line, "\n") {
				continue
			}
			if _, err := fmt.Sscanf(line, "line %d %s\n", &n, &x); err != nil || x != tail {
				return fmt.Errorf("file %d: torn line %q after %d", i, line, last)
			}
			if n <= last {
				return fmt.Errorf("file %d: line %d after line %d", i, n, last)
			}
			last = n
		}
	}
	return nil
}
