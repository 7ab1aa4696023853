//go:build unix

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"moult/agent/control"
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
