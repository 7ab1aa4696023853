package home

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/agent/control"
)

// The audit has a line for each deed, whoever opened the folder, and does not grow for ever.
func TestAudit(t *testing.T) {
	now := time.Unix(1e9, 0)
	open := newHome(t, &now)
	h := open()
	path := filepath.Join(h.cfg.Data, auditFile)
	uid := 7
	want := control.Deed{Time: now.UTC(), Call: "inject", By: "socket", UID: &uid, Release: 3, Message: "it is here"}
	h.Audit(want)
	h = open()
	h.Audit(control.Deed{Call: "leave", By: "socket", Error: strings.Repeat("x", 2*maxAuditText)})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	var got control.Deed
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil || len(lines) != 2 || len(lines[1]) > maxAuditText+200 {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	if got.UID == nil || *got.UID != uid || !got.Time.Equal(want.Time) || got.Call != want.Call || got.Release != 3 || got.Message != want.Message {
		t.Errorf("noted %+v", got)
	}
	for i := range keepAudit + 2 {
		if err := os.Truncate(path, maxAudit); err != nil {
			t.Fatal(err)
		}
		h.Audit(control.Deed{Call: "join", Release: 100})
		if fi, err := os.Stat(path); err != nil || fi.Size() > 1000 {
			t.Fatalf("after rotation %d: %v", i+1, err)
		}
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != keepAudit+1 {
		t.Errorf("files %q, %v", files, err)
	}
}

// A line that was cut off spoils no other.
func TestAuditCutOff(t *testing.T) {
	now := time.Unix(1e9, 0)
	h := newHome(t, &now)()
	path := filepath.Join(h.cfg.Data, auditFile)
	h.Audit(control.Deed{Call: "inject"})
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, fi.Size()-5); err != nil {
		t.Fatal(err)
	}
	h.Audit(control.Deed{Call: "join"})
	h.Audit(control.Deed{Call: "leave"})
	lines := strings.Split(readFile(t, path), "\n")
	if len(lines) != 4 || lines[3] != "" {
		t.Fatalf("lines %q", lines)
	}
	for i, call := range []string{"join", "leave"} {
		var d control.Deed
		if err := json.Unmarshal([]byte(lines[i+1]), &d); err != nil || d.Call != call {
			t.Errorf("%q: %v", lines[i+1], err)
		}
	}
}

// Where a full file cannot be moved on, it is still written to, for as long again.
func TestAuditStuck(t *testing.T) {
	now := time.Unix(1e9, 0)
	h := newHome(t, &now)()
	path := filepath.Join(h.cfg.Data, auditFile)
	h.Audit(control.Deed{Call: "inject"})
	for i := 1; i < keepAudit; i++ {
		if err := os.WriteFile(fmt.Sprintf("%s.%d", path, i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(fmt.Sprintf("%s.%d/full", path, keepAudit), 0o700); err != nil { // no file takes its place
		t.Fatal(err)
	}
	for _, c := range []struct {
		size  int64
		noted bool
	}{{maxAudit, true}, {2*maxAudit - 1, true}, {2 * maxAudit, false}} {
		if err := os.Truncate(path, c.size); err != nil {
			t.Fatal(err)
		}
		h.Audit(control.Deed{Call: "join"})
		if fi, err := os.Stat(path); err != nil || (fi.Size() > c.size) != c.noted {
			t.Errorf("of %d bytes: now %d, %v", c.size, fi.Size(), err)
		}
	}
}

// Files are moved on up to a gap only, as a crash half-way leaves one.
func TestAuditGap(t *testing.T) {
	now := time.Unix(1e9, 0)
	h := newHome(t, &now)()
	path := filepath.Join(h.cfg.Data, auditFile)
	h.Audit(control.Deed{Call: "inject"})
	for _, n := range []string{"1", "3", "4"} {
		if err := os.WriteFile(path+"."+n, []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(path, maxAudit); err != nil {
		t.Fatal(err)
	}
	h.Audit(control.Deed{Call: "join"})
	for n, want := range map[string]string{"2": "1", "3": "3", "4": "4"} {
		if got := readFile(t, path+"."+n); got != want {
			t.Errorf("file %s has %.20q, want %q", n, got, want)
		}
	}
	if fi, err := os.Stat(path + ".1"); err != nil || fi.Size() != maxAudit {
		t.Errorf("the full one is not the newest of the old: %v", err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
