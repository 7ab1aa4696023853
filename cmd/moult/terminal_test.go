//go:build unix

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"moult/agent/control"
	"moult/cmd/moult/internal/screen"
	"moult/testdata/kit"
	"moult/testdata/screentest"
)

// The demo, and `moult status -w` of one of its agents beside it, on terminals: no line is
// longer than they are wide, and none stands there twice.
func TestTerminal(t *testing.T) {
	inCluster(t)
	t.Parallel()
	for _, width := range []int{60, 80, 120, 200} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp("", "tty-") // not t.TempDir: its long names do not fit a unix socket's path
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			shown := screentest.Open(t, width, 50)
			demo := onTerminal(t, shown, "TMPDIR="+dir, "demo", "--nodes", "2")
			shown.Await("a release 2", func(rows []string) bool { return begins(rows, "release 2 changes") })
			sockets, err := filepath.Glob(filepath.Join(dir, "moult-demo-*", "n*", control.SocketName))
			if err != nil || len(sockets) != 2 {
				t.Fatalf("the demo's agents: %q, %v", sockets, err)
			}
			watched := screentest.Open(t, width, 24)
			watch := onTerminal(t, watched, "MOULT_AGENT="+sockets[0], "status", "-w")
			watched.Await("the end of the rollout, in rows that stand there once", func(rows []string) bool {
				return len(screentest.Twice(rows)) == 0 && slices.ContainsFunc(rows, func(r string) bool { return strings.Contains(r, "release 2  complete") })
			})
			if err := watch.Process.Signal(syscall.SIGINT); err != nil {
				t.Error(err)
			}
			if err := watch.Wait(); err != nil {
				t.Errorf("status -w: %v", err)
			}
			if err := demo.Wait(); err != nil {
				t.Errorf("demo: %v", err)
			}
			for name, s := range map[string]*screentest.Screen{"demo": shown, "status -w": watched} {
				for _, fault := range s.Faults() {
					t.Errorf("%s: %s", name, fault)
				}
				rows := s.Rows()
				if n := len(slices.DeleteFunc(slices.Clone(rows), func(r string) bool { return !strings.HasPrefix(r, "n1 ") })); n != 1 || !begins(rows, "NODE") {
					t.Errorf("%s: %d rows of n1 in\n%s", name, n, strings.Join(rows, "\n"))
				}
				t.Logf("%s:\n%s", name, strings.Join(rows, "\n"))
			}
		})
	}
}

// `moult status -w` goes on over a restart of the agent that it asks, on a terminal and in a
// pipe, and says meanwhile why there is no news.
func TestStatusWatchedOverRestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	a := c.Agents[0]
	c.up(c.Agents)
	c.until(a, "the agent to be up", func(s control.Status) bool { return len(s.Nodes) == 1 })
	shown := screentest.Open(t, 80, 24)
	env := "MOULT_AGENT=" + a.Data
	watch := onTerminal(t, shown, env, "status", "-w")
	shown.Await("the node", func(rows []string) bool { return begins(rows, "n1 ") && !begins(rows, "moult: ") })
	out, errs := new(lines), new(lines)
	piped := exec.CommandContext(t.Context(), c.exe)
	piped.Args, piped.Env = []string{"moult", "status", "-w"}, append(os.Environ(), env)
	piped.Stdout, piped.Stderr = out.pipe(t), errs.pipe(t)
	if err := piped.Start(); err != nil {
		t.Fatal(err)
	}
	out.await(t, "NODE")

	c.kill(a)
	shown.Await("the error above the node", func(rows []string) bool { return strings.HasPrefix(rows[0], "moult: ") && begins(rows, "n1 ") })
	if said := errs.await(t, "moult: "); !strings.Contains(said, a.Data) {
		t.Errorf("in a pipe: %q", said)
	}
	c.up(c.Agents)
	shown.Await("the node without the error", func(rows []string) bool { return begins(rows, "n1 ") && !begins(rows, "moult: ") })
	out.await(t, "NODE")
	for _, cmd := range []*exec.Cmd{watch, piped} {
		if err := errors.Join(cmd.Process.Signal(syscall.SIGINT), cmd.Wait()); err != nil {
			t.Errorf("interrupted: %v", err)
		}
	}
	for _, fault := range shown.Faults() {
		t.Error(fault)
	}
}

// Ctrl-Z under `moult status -w` gives the shell its screen back, and fg shows the status again.
func TestStatusWatchedSuspended(t *testing.T) {
	t.Parallel()
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(control.Status{Nodes: []control.NodeStatus{{Name: "n1"}}})
	}))
	defer agent.Close()
	s := screentest.Open(t, 80, 24)
	fmt.Fprintln(s.TTY, "before")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	watch := exec.CommandContext(t.Context(), exe)
	watch.Args = []string{"moult", "status", "-w"}
	watch.Env = append(os.Environ(), "TERM=xterm-256color", "MOULT_AGENT="+agent.URL)
	watch.Stdout, watch.Stderr = s.TTY, s.TTY
	watch.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a shell does
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		s.Await("the status alone", func(rows []string) bool { return begins(rows, "n1 ") && !begins(rows, "before") })
		if err := watch.Process.Signal(syscall.SIGTSTP); err != nil {
			t.Fatal(err)
		}
		var how syscall.WaitStatus
		if _, err := syscall.Wait4(watch.Process.Pid, &how, syscall.WUNTRACED, nil); err != nil || !how.Stopped() {
			t.Fatalf("it is not stopped: %v, %v", how, err)
		}
		s.Await("what stood there before", func(rows []string) bool { return slices.Equal(rows, []string{"before"}) })
		if err := watch.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	s.Await("the status again", func(rows []string) bool { return begins(rows, "n1 ") && !begins(rows, "before") })
	if err := errors.Join(watch.Process.Signal(syscall.SIGINT), watch.Wait()); err != nil {
		t.Errorf("interrupted: %v", err)
	}
	s.Await("the last status below what stood there before", func(rows []string) bool { return begins(rows, "before") && begins(rows, "n1 ") })
}

// `moult inject` shows on a terminal how far the bundle is, and takes that away; nowhere else.
func TestInjectShown(t *testing.T) {
	t.Parallel()
	const length = 64 << 20 // more than fits on the way
	path := filepath.Join(t.TempDir(), "one.moult")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, length)); err != nil {
		t.Fatal(err)
	}
	for _, width := range []int{60, 80, 120, 200} {
		goOn := make(chan struct{})
		agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-goOn
			if n, err := io.Copy(io.Discard, r.Body); err != nil || n <= length {
				t.Errorf("%d bytes came, %v", n, err)
			}
			_ = json.NewEncoder(w).Encode(control.Accepted{Version: 1, Message: "release 1 is here"})
		}))
		s := screentest.Open(t, width, 24)
		injecting := onTerminal(t, s, "MOULT_AGENT="+agent.URL, "inject", "--no-order", path)
		s.Await("how far it is", func(rows []string) bool {
			return len(rows) == 1 && strings.HasPrefix(rows[0], "handing over  ░") && strings.Contains(rows[0], "of 64.0 MiB")
		})
		close(goOn)
		if err := injecting.Wait(); err != nil {
			t.Error(err)
		}
		s.Await("what came of it", func(rows []string) bool { return begins(rows, "moult: release 1 is here") })
		if begins(s.Rows(), "handing over") {
			t.Errorf("in the end\n%s", strings.Join(s.Rows(), "\n"))
		}
		for _, fault := range s.Faults() {
			t.Errorf("%d columns: %s", width, fault)
		}
		agent.Close()
	}
}

// lines is what a command writes to a pipe.
type lines struct{ *bufio.Scanner }

func (l *lines) pipe(t *testing.T) *os.File {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	l.Scanner = bufio.NewScanner(r)
	return w
}

// await returns the next line that begins so.
func (l *lines) await(t *testing.T, with string) string {
	for l.Scan() {
		if strings.HasPrefix(l.Text(), with) {
			return l.Text()
		}
	}
	t.Fatalf("no line %q: %v", with, l.Err())
	return ""
}

// A terminal that cannot be drawn on any more ends `moult status -w`.
func TestStatusWatchedBlind(t *testing.T) {
	t.Setenv("TERM", "xterm-256color")
	master, tty, err := pty.Open()
	if err != nil {
		t.Skipf("there are no pseudo-terminals here: %v", err)
	}
	defer tty.Close()
	p := statusPrinter{w: io.Discard, talk: io.Discard, terminal: screen.TerminalOf(tty, false)}
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = syscall.Kill(os.Getpid(), syscall.SIGWINCH) // has the size asked for
		_ = json.NewEncoder(w).Encode(control.Status{Nodes: []control.NodeStatus{{Name: "n1"}}})
	}))
	defer agent.Close()
	api := control.NewClient(agent.URL)
	defer api.Close()
	ended := make(chan error)
	go func() { ended <- p.watch(t.Context(), api, false) }()
	for shown, buf := "", make([]byte, 1<<12); !strings.Contains(shown, "n1"); {
		n, err := master.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		shown += string(buf[:n])
	}
	if err := master.Close(); err != nil { // it hangs up
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "draw on the terminal: ") {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(kit.Patience):
		t.Fatal("it goes on")
	}
}

func begins(rows []string, with string) bool {
	return slices.ContainsFunc(rows, func(r string) bool { return strings.HasPrefix(r, with) })
}

// onTerminal starts moult on a terminal, which it alone has open then.
func onTerminal(t *testing.T, s *screentest.Screen, env string, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Args = append([]string{"moult"}, args...) // by this name these tests are moult
	cmd.Env = append(os.Environ(), "TERM=xterm-256color", "NO_COLOR=", env)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.TTY, s.TTY, s.TTY
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait() // the test has failed already
		}
	})
	return cmd
}
