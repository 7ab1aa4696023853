package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// wallSpec is a release whose every program tries to get over the wall.
const wallSpec = `release {
  version = %d
  class "kv" {
    %s
    artifact {
      os   = "linux"
      arch = %q
      path = "wall"
    }
    command = ["./wall", "serve", "${state}", "${service.api}", "software %d"]
    service "api" {
      protocol = "http"
    }
    health {
      exec             = ["./wall", "check", "${state}"]
      interval         = "100ms"
      min_healthy_time = "300ms"
      drain_timeout    = "1s"
    }
    %s
  }
}
`

// wallCluster is one node whose programs run as user, "" being the agent's own.
func wallCluster(t *testing.T, k kind, user string) *testCluster {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can start programs as another user")
	}
	c := newCluster(t, 1)
	if err := os.Chmod(c.dir, 0o711); err != nil { // the folders above the data folder let that user through
		t.Fatal(err)
	}
	kit.Program(t, filepath.Join(c.dir, "wall"), "testdata/wall/cmd/wall")
	gain := filepath.Join(c.dir, "gain")
	kit.Program(t, gain, "testdata/wall/cmd/wall")
	if err := os.Chmod(gain, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	pid := filepath.Join(c.dir, "agent.pid")
	c.use(k, "")
	c.edit(func(_ *cluster.Agent, config string) string {
		if user != "" {
			config = strings.Replace(config, "  class =", fmt.Sprintf("  user  = %q\n  class =", user), 1)
		}
		return strings.Replace(config, "env = {", fmt.Sprintf("env = { WALL_GAIN = %q, WALL_AGENT = %q, ", gain, pid), 1)
	})
	c.up(c.Agents)
	c.until(c.Agents[0], "the agent to be up", func(s control.Status) bool { return len(s.Nodes) == 1 })
	if err := os.WriteFile(pid, []byte(strconv.Itoa(c.agentPID())), 0o644); err != nil {
		t.Fatal(err)
	}
	return c
}

// agentPID is the process of the only agent.
func (c *testCluster) agentPID() int {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.Agents[0].Data, "lock"))
	if err != nil {
		c.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		c.t.Fatal(err)
	}
	return pid
}

func (c *testCluster) wallRelease(v bundle.Version) {
	c.t.Helper()
	from, more := "", ""
	if v > 1 {
		from = fmt.Sprintf("from = %d", v-1)
		more = `transform {
      exec = ["./wall", "migrate"]
    }
    past {
      exec = ["./wall", "object"]
    }
    future {
      exec = ["./wall", "object"]
    }
    schedule {
      strategy = "manual"
    }`
	}
	if err := c.inject(c.Agents[0], c.bundle(v, fmt.Sprintf(wallSpec, v, from, runtime.GOARCH, v, more))); err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCluster) get(addr string) string {
	c.t.Helper()
	resp, err := http.Get("http://" + addr + "/")
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(body)
}

// reports are what each part of the releases has found, at the end.
func (c *testCluster) reports() map[string]string {
	c.t.Helper()
	all := map[string]string{}
	data := c.Agents[0].Data
	for _, pattern := range []string{"state/2/report-*", "objects/2/*/report-*"} {
		paths, _ := filepath.Glob(filepath.Join(data, pattern))
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				c.t.Fatal(err)
			}
			name, _ := filepath.Rel(data, path)
			all[name] = string(text)
		}
	}
	return all
}

// throughWall takes the node from version 1 to 2, with callers of both.
func (c *testCluster) throughWall(k kind) {
	c.t.Helper()
	a := c.Agents[0]
	c.wallRelease(1)
	c.settledAt(a, 1, 1)
	c.inUse(k)
	if got := c.get(a.Versioned(1)); got != "software 1" {
		c.t.Errorf("version 1 answers %q", got)
	}
	c.wallRelease(2)
	c.until(a, "the future object to have run", func(control.Status) bool {
		_, err := os.Stat(filepath.Join(a.Data, "objects", "2", "future", "report-object"))
		return err == nil
	})
	c.upgrade(a, 2)
	for addr, want := range map[string]string{a.Versioned(2): "software 2", a.Versioned(1): "object"} {
		if got := c.get(addr); got != want {
			c.t.Errorf("at version 2 callers of %s get %q, want %q", addr, got, want)
		}
	}
	pid := c.nodePID(a)
	c.kill(a)
	c.up(c.Agents)
	if now := c.nodePID(a); now != pid {
		c.t.Errorf("after its agent's death the node is process %d, was %d", now, pid)
	}
}

// TestUser takes a node whose programs run as another user over an upgrade. Its software,
// its check, its transform and its objects can do nothing outside their folders, read no
// key, command no agent and gain no rights.
func TestUser(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes; run without -short")
	}
	t.Parallel()
	for _, way := range []string{"relay", "inherit", "steer"} {
		t.Run(way, func(t *testing.T) {
			k := kind{way, "proxy"}
			if way != "relay" && !*allKinds {
				t.Skip("make mixed runs it")
			}
			if err := k.possible(); err != nil {
				t.Skipf("not possible here: %v", err)
			}
			c := wallCluster(t, k, "nobody")
			c.throughWall(k)
			reports := c.reports()
			c.closed()
			if len(reports) < 5 { // software, check, transform, past and future object
				t.Fatalf("reports: %q", reports)
			}
			for name, text := range reports {
				if n := strings.Count(text, ": refused"); n < 25 {
					t.Errorf("%s: %d attempts refused:\n%s", name, n, text)
				}
				for line := range strings.Lines(text) {
					refused := strings.Contains(line, "permission denied") || strings.Contains(line, "operation not permitted") || strings.Contains(line, "it runs as 65534")
					if strings.Contains(line, ": done") || strings.Contains(line, ": refused") && !refused {
						t.Errorf("%s: %s", name, line)
					}
				}
				if !strings.Contains(text, "\nUSER=nobody\nLOGNAME=nobody\nMOULT_SOCKET=\n") {
					t.Errorf("%s: the environment names another user:\n%s", name, text)
				}
			}
		})
	}
}

// closed checks that nothing of the agent's own lets others in, whatever its name. The
// software's state and objects are its own, and its program is no secret.
func (c *testCluster) closed() {
	c.t.Helper()
	entries, err := os.ReadDir(c.Agents[0].Data)
	if err != nil || len(entries) < 8 {
		c.t.Fatalf("%d entries, %v", len(entries), err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			c.t.Fatal(err)
		}
		mode := info.Mode().Perm()
		switch e.Name() {
		case "state", "objects": // to pass through
			if mode&0o026 != 0 {
				c.t.Errorf("%s: %v", e.Name(), mode)
			}
		case "artifacts":
			if mode&0o022 != 0 {
				c.t.Errorf("%s: %v", e.Name(), mode)
			}
		default:
			if mode&0o007 != 0 {
				c.t.Errorf("%s lets everybody in: %v", e.Name(), mode)
			}
		}
	}
}

// TestUserCatches: without a user all of it can be done, so what TestUser finds refused
// is refused by the wall.
func TestUserCatches(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes; run without -short")
	}
	t.Parallel()
	c := wallCluster(t, portable, "")
	c.throughWall(portable)
	for name, text := range c.reports() {
		for line := range strings.Lines(text) {
			if strings.Contains(line, ": refused") {
				t.Errorf("%s: %s", name, line)
			}
		}
	}
}
