package home

import (
	"encoding/json"
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
