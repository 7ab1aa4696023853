package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
)

// manager does for agents what systemd does, as far as sd_notify(3) goes: it hears what they
// say, and keeps their sockets from one to the next.
type manager struct {
	t      *testing.T
	socket string
	said   chan string // but for what it keeps; the newest is lost where nobody listens

	mu   sync.Mutex
	kept map[string]*os.File
}

func newManager(t *testing.T, socket string) *manager {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{t: t, socket: socket, said: make(chan string, 1000), kept: map[string]*os.File{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.hear(conn)
	}()
	t.Cleanup(func() {
		conn.Close()
		<-ended
		m.forget()
	})
	return m
}

func (m *manager) hear(conn *net.UnixConn) {
	buf, oob := make([]byte, 1<<13), make([]byte, 1<<10)
	for {
		n, on, _, _, err := conn.ReadMsgUnix(buf, oob)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				m.t.Error(err)
			}
			return
		}
		said := string(buf[:n])
		name := ""
		for line := range strings.Lines(said) {
			if after, ok := strings.CutPrefix(line, "FDNAME="); ok {
				name = strings.TrimSpace(after)
			}
		}
		switch {
		case strings.HasPrefix(said, "FDSTORE=1\n"):
			m.keep(name, oob[:on])
		case strings.HasPrefix(said, "FDSTOREREMOVE=1\n"):
			m.mu.Lock()
			if f := m.kept[name]; f != nil {
				f.Close()
				delete(m.kept, name)
			}
			m.mu.Unlock()
		default:
			select {
			case m.said <- said:
			default:
			}
		}
	}
}

func (m *manager) keep(name string, oob []byte) {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(all) != 1 || name == "" {
		m.t.Errorf("kept %q: %d messages, %v", name, len(all), err)
		return
	}
	fds, err := unix.ParseUnixRights(&all[0])
	if err != nil || len(fds) != 1 {
		m.t.Errorf("kept %q: %d descriptors, %v", name, len(fds), err)
		return
	}
	unix.CloseOnExec(fds[0])
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept[name] = os.NewFile(uintptr(fds[0]), name)
}

// forget closes all that is kept.
func (m *manager) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, f := range m.kept {
		f.Close()
		delete(m.kept, name)
	}
}

// prepare makes a start one by the manager (sd_listen_fds(3)).
func (m *manager) prepare(cmd *exec.Cmd) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := slices.Sorted(maps.Keys(m.kept))
	for _, name := range names {
		cmd.ExtraFiles = append(cmd.ExtraFiles, m.kept[name])
	}
	// Only the shell knows its number, which the agent keeps.
	cmd.Args = append([]string{"/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.socket, fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	return nil
}

// Agents are ended and started again, one after the other, by a manager that keeps their
// sockets, while clients of three kinds call through them: by relay, so that nobody else
// answers. No call fails. One that is killed loses the calls that are on; who comes after it
// waits for the next agent, where the manager keeps its sockets, and is refused where not.
func TestAgentRestarts(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := newCluster(t, 2)
	c.use(portable, "")
	managers := map[*cluster.Agent]*manager{}
	for _, a := range c.Agents {
		managers[a] = newManager(t, filepath.Join(c.dir, a.Name+".notify"))
		a.Prepare = managers[a].prepare
	}
	c.up(c.Agents)
	c.formed(2)
	c.releaseAt(c.Agents[0], 1, spec{})
	for _, a := range c.Agents {
		c.settledAt(a, 1, 2)
	}
	c.manual(2)
	c.upgrade(c.Agents[0], 2)
	c.upgrade(c.Agents[1], 2)
	pids := map[*cluster.Agent]int{}
	for _, a := range c.Agents {
		pids[a] = c.nodePID(a)
	}

	l := c.loads()
	l.versioned(1)
	l.versioned(2)
	l.begin("clients of the public address", "public", 2, func(a *cluster.Agent) string { return a.Public() })
	l.flow(30)
	for range 2 {
		for _, a := range c.Agents {
			if err := a.End(); err != nil {
				t.Fatal(err)
			}
			c.up([]*cluster.Agent{a})
			l.flow(30)
		}
	}
	l.end(authors(t))

	a := c.Agents[0]
	for _, kept := range []bool{true, false} {
		c.kill(a)
		if !kept {
			managers[a].forget()
		}
		conn, err := net.Dial("tcp", a.Public())
		if (err == nil) != kept {
			t.Fatalf("called between two agents, kept=%v: %v", kept, err)
		}
		if kept {
			fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		c.up([]*cluster.Agent{a})
		c.until(a, "the agent again", func(s control.Status) bool { return node(s, a.Name).Version == 2 })
		if !kept {
			continue
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		conn.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("called between two agents: %s %s", resp.Status, body)
		}
	}
	for _, a := range c.Agents {
		if now := c.nodePID(a); now != pids[a] {
			t.Errorf("%s: the software was process %d and is %d", a.Name, pids[a], now)
		}
	}
}
