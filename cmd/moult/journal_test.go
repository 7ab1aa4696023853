//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"moult/agent/control"
	"moult/testdata/kit"
)

// An agent whose log systemd's journal has tells that of each call that changes something, or was to. The
// journal is a socket of the test's here, which is linked into a moult of its own.
func TestJournalAudit(t *testing.T) {
	inCluster(t)
	t.Parallel()
	dir, err := os.MkdirTemp("", "moult-journal-") // not t.TempDir: its long names do not fit a unix socket's path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	journal, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "journal"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	exe := filepath.Join(dir, "moult")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", exe, "-ldflags", "-X github.com/coreos/go-systemd/v22/journal.journalSocket="+filepath.Join(dir, "journal"), ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c := newCluster(t, 1)
	a := c.Agents[0]
	log, err := os.Create(a.LogPath()) // which the agent's standard error is then
	if err != nil {
		t.Fatal(err)
	}
	var at syscall.Stat_t
	if err := syscall.Fstat(int(log.Fd()), &at); err != nil {
		t.Fatal(err)
	}
	log.Close()
	// The first one's log is not the journal's, so nothing of it is told there.
	for _, run := range []struct {
		inode uint64
		join  string
	}{{at.Ino + 1, "127.0.0.1:1"}, {at.Ino, a.Ring()}} {
		if err := a.Start(exe, fmt.Sprintf("JOURNAL_STREAM=%d:%d", at.Dev, run.inode)); err != nil {
			t.Fatal(err)
		}
		c.until(a, "the agent to be up", func(s control.Status) bool { return len(s.Nodes) == 1 })
		if code, _, errs := c.command(a, "join", run.join); code == exitDone || !strings.Contains(errs, "joining the ring") {
			t.Fatalf("join: exit code %d, %s", code, errs)
		}
		c.kill(a)
	}
	if err := journal.SetReadDeadline(time.Now().Add(kit.Patience)); err != nil {
		t.Fatal(err)
	}
	entry := make([]byte, 1<<16)
	n, err := journal.Read(entry)
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(entry[:n])) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		fields[name] = value
	}
	var d control.Deed
	if err := json.Unmarshal([]byte(fields["MOULT_AUDIT"]), &d); err != nil || d.Call != "join" || len(d.What) != 1 || d.What[0] != a.Ring() || d.Error == "" {
		t.Errorf("%+v, %v, in %q", d, err, entry[:n])
	}
	if fields["MESSAGE"] != "join by socket: "+d.Error || fields["PRIORITY"] != "4" || fields["SYSLOG_IDENTIFIER"] != "moult" || fields["MOULT_CALL"] != "join" || fields["MOULT_NODE"] != a.Name {
		t.Errorf("%q", fields)
	}
}
