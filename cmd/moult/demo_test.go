package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"moult/agent/control"
	"moult/testdata/kit"
)

// TestDemo plays the demo, small.
func TestDemo(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts many processes; run without -short")
	}
	var out, talk strings.Builder
	if code := run(t.Context(), []string{"moult", "demo", "--nodes", "3", "-o", "json"}, &out, &talk); code != exitDone {
		t.Fatalf("exit code %d\n%s\n%s", code, talk.String(), out.String())
	}
}

// TestDemoBad plays that of a bad release.
func TestDemoBad(t *testing.T) {
	inCluster(t)
	t.Parallel()
	var out, talk strings.Builder
	if code := run(t.Context(), []string{"moult", "demo", "--bad", "--nodes", "3"}, &out, &talk); code != exitDone || !strings.Contains(out.String(), "nodes that went down    0\n") {
		t.Fatalf("exit code %d\n%s\n%s", code, talk.String(), out.String())
	}
}

// TestDemoUI: the story begins when the page is opened, its figures are told when it is over,
// and the cluster stays until it is interrupted.
func TestDemoUI(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts many processes; run without -short")
	}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	in, talk := io.Pipe()
	out := &strings.Builder{}
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"moult", "demo", "--ui", "--nodes", "2", "-o", "json"}, out, talk)
		talk.Close()
	}()
	address := regexp.MustCompile(`http://\S+`)
	var told []string
	for lines := bufio.NewScanner(in); lines.Scan(); {
		told = append(told, lines.Text())
		if a := address.FindString(lines.Text()); a != "" {
			resp, err := http.Get(a)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		if strings.Contains(lines.Text(), "the cluster and its page stay") {
			if !json.Valid([]byte(out.String())) {
				t.Errorf("the figures so far: %q", out)
			}
			interrupt()
		}
	}
	if code := <-ended; code != exitDone || ctx.Err() == nil {
		t.Errorf("exit code %d\n%s\n%s", code, strings.Join(told, "\n"), out)
	}
}

// A demo whose terminal is closed ends all that it started, as an interrupted one
// does, and does not say that anything goes on.
func TestDemoHangsUp(t *testing.T) {
	inCluster(t)
	t.Parallel()
	dir, err := os.MkdirTemp("", "hup-") // not t.TempDir: its long names do not fit a unix socket's path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Where these tests run by nohup the demo would go on, as it should: a signal that is
	// caught here is not ignored by what is started.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	defer signal.Stop(caught)
	cmd := exec.CommandContext(t.Context(), exe, "demo", "--nodes", "2")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	talk, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	var agents []control.Info
	for lines := bufio.NewScanner(talk); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if !strings.HasPrefix(lines.Text(), "clients of version 1") {
			continue
		}
		agents = demoAgents(t, dir)
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Error(err)
		}
	}
	_ = cmd.Wait() // its exit code tells
	if code := cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(said.String(), "moult: the demo was interrupted; its agents and nodes have ended\n") {
		t.Errorf("exit code %d, %s", code, said.String())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
	for _, a := range agents {
		if c, err := net.Dial("tcp", a.Bind); err == nil {
			c.Close()
			t.Errorf("agent %s goes on", a.Name)
		}
		if kit.Alive(a.NodePID) {
			t.Errorf("the node of %s goes on as process %d", a.Name, a.NodePID)
		}
	}
}

// demoAgents asks the agents of the demo below dir who they are.
func demoAgents(t *testing.T, dir string) (agents []control.Info) {
	sockets, err := filepath.Glob(filepath.Join(dir, "moult-demo-*", "n*", control.SocketName))
	if err != nil || len(sockets) != 2 {
		t.Errorf("the demo's agents: %q, %v", sockets, err)
	}
	for _, s := range sockets {
		api := control.NewClient(s)
		defer api.Close()
		var info control.Info
		kit.Until(t, "the node of "+s, func() (there bool) {
			info, err = api.Info(t.Context())
			return err == nil && info.NodePID != 0
		})
		if !kit.Alive(info.NodePID) {
			t.Errorf("the node of %s is not seen to run", info.Name)
		}
		agents = append(agents, info)
	}
	return agents
}
