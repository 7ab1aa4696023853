//go:build unix

package agent

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"moult/gossip/view"
)

// The service manager is told that the agent is up and how its node is, when that changes,
// and twice in the time that its watchdog gives that the loop turns.
func TestManager(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	ln, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "20000000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	m := newManager(slog.New(slog.DiscardHandler))
	defer m.close()
	buf := make([]byte, 1<<10)
	now := time.Now()
	for _, step := range []struct {
		after time.Duration
		line  string
		want  string
	}{
		{0, "version 1", "READY=1\nSTATUS=version 1\nWATCHDOG=1"},
		{9 * time.Second, "version 1", ""},
		{time.Second, "version 1", "\nWATCHDOG=1"},
		{time.Second, view.OneLine("held:\nMAINPID=1", maxLine), "READY=1\nSTATUS=held: MAINPID=1"},
		{10 * time.Second, "held: MAINPID=1", "\nWATCHDOG=1"},
		{20 * time.Second, "version 2", "READY=1\nSTATUS=version 2\nWATCHDOG=1"},
	} {
		now = now.Add(step.after)
		m.alive(now, step.line)
		if step.want == "" {
			continue // the next message would be this one
		}
		n, err := ln.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(buf[:n]); got != step.want {
			t.Errorf("told %q, want %q", got, step.want)
		}
	}
}

// A service manager that takes nothing does not hold the loop up, and is told later.
func TestManagerWaits(t *testing.T) {
	m := &manager{messages: make(chan string, 1)}
	for _, line := range []string{"version 1", "version 2", "version 3"} {
		m.alive(time.Now(), line)
	}
	if got := <-m.messages; got != "READY=1\nSTATUS=version 1" {
		t.Errorf("told %q", got)
	}
	m.alive(time.Now(), "version 3")
	if got := <-m.messages; got != "READY=1\nSTATUS=version 3" {
		t.Errorf("told %q", got)
	}
}
