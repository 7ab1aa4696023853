//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/agent"
	"moult/agent/config"
	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/cmd/moult/internal/demo"
	"moult/store/bundle"
	"moult/store/bundle/build"
	"moult/store/bundle/trust"
	"moult/testdata/kit"
	"moult/transforms"
)

// testCluster is the demo's cluster with what tests need: real agents and real
// nodes, each a process.
type testCluster struct {
	cluster.Cluster
	t       *testing.T
	dir     string
	exe     string
	options build.Options // of its bundles
}

// software returns the path of the sample system's binary, all versions in one.
func (c *testCluster) software() string {
	c.t.Helper()
	path := filepath.Join(c.dir, "sample")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	kit.Program(c.t, path, "testdata/kv/internal/sample")
	return path
}

// newCluster makes a trust folder and the configurations of n agents, and
// starts those that are named (all where none is).
func newCluster(t *testing.T, n int) *testCluster {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: its long names do not fit a unix socket's path.
	dir, err := os.MkdirTemp("", "moult-test-")
	if err != nil {
		t.Fatal(err)
	}
	c := &testCluster{t: t, dir: dir, exe: exe, options: buildOptions()}
	t.Cleanup(func() {
		if t.Failed() {
			c.dump()
		}
		if err := c.Stop(); err != nil {
			t.Errorf("stop the cluster: %v", err)
		}
		c.forget()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the cluster's folder: %v", err)
		}
	})
	if err := trust.Init(filepath.Join(dir, "trust"), trust.InitOptions{Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := c.Configure(dir, n); err != nil {
		t.Fatal(err)
	}
	return c
}

// forget takes out of the kernel what the agents left there.
func (c *testCluster) forget() {
	for _, a := range c.Agents {
		cfg, err := config.Load(a.ConfigPath())
		if err == nil {
			if cfg.Data, err = filepath.Abs(cfg.Data); err == nil {
				err = agent.Forget(cfg, slog.New(slog.DiscardHandler))
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.t.Errorf("%s: %v", a.Name, err)
		}
	}
}

// dump prints what the agents logged.
func (c *testCluster) dump() {
	for _, a := range c.Agents {
		for _, name := range []string{"agent.log", "log/node.log"} {
			data, err := os.ReadFile(filepath.Join(a.Data, name))
			if err != nil {
				continue
			}
			if len(data) > 8000 {
				data = data[len(data)-8000:]
			}
			c.t.Logf("%s of %s:\n%s", name, a.Name, data)
		}
	}
}

// up starts agents; env is added to their environment.
func (c *testCluster) up(agents []*cluster.Agent, env ...string) {
	c.t.Helper()
	for _, a := range agents {
		if err := a.Start(c.exe, env...); err != nil {
			c.t.Fatal(err)
		}
	}
}

// kill ends an agent as a crash would.
func (c *testCluster) kill(a *cluster.Agent) {
	c.t.Helper()
	if err := a.Kill(); err != nil {
		c.t.Fatal(err)
	}
}

// until waits until agent a sees what good asks for.
func (c *testCluster) until(a *cluster.Agent, what string, good func(control.Status) bool) control.Status {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), kit.Patience)
	defer cancel()
	s, err := a.Await(ctx, what, good)
	if err != nil {
		data, _ := json.MarshalIndent(s, "", " ")
		c.t.Fatalf("%v; last status %s", err, data)
	}
	return s
}

// settledAt waits until n nodes have settled at v.
func (c *testCluster) settledAt(a *cluster.Agent, v bundle.Version, n int) control.Status {
	c.t.Helper()
	return c.until(a, fmt.Sprintf("%d nodes at version %d", n, v), func(s control.Status) bool { return cluster.Settled(s, v) >= n })
}

// spec changes a release of the demo for a test.
type spec struct {
	health      string // instead of /healthz
	budget      string // instead of 20%
	transform   string // the argument instead of migrate
	command     string // instead of ./kv
	os          string // instead of this one
	soak        string // instead of a second
	longHealthy bool   // half a minute instead of half a second
}

func (c *testCluster) build(v bundle.Version, s spec) string {
	c.t.Helper()
	path, err := demo.WriteSpec(c.dir, c.software(), v)
	if err != nil {
		c.t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	text := string(data)
	for from, to := range map[string]string{
		`"/healthz"`: s.health, `"20%"`: s.budget, `"migrate"`: s.transform, `["./kv", "sample-node", "` + fmt.Sprint(v) + `", "--state"`: s.command,
		fmt.Sprintf("os   = %q", runtime.GOOS): s.os, `soak  = "1s"`: s.soak,
	} {
		if to != "" {
			text = strings.ReplaceAll(text, from, to)
		}
	}
	if s.longHealthy {
		text = strings.ReplaceAll(text, `min_healthy_time = "500ms"`, `min_healthy_time = "30s"`)
	}
	text = strings.ReplaceAll(text, `healthy_deadline = "1m"`, `healthy_deadline = "3s"`)
	return c.bundle(v, text)
}

func (c *testCluster) openTrust() *trust.Folder {
	c.t.Helper()
	folder, err := trust.OpenFolder(filepath.Join(c.dir, "trust"), time.Now())
	if err != nil {
		c.t.Fatal(err)
	}
	return folder
}

// inject signs the first order and hands the bundle to an agent.
func (c *testCluster) inject(a *cluster.Agent, path string) error {
	c.t.Helper()
	return a.Inject(c.t.Context(), c.trustDir(), path)
}

// release builds and injects a release.
func (c *testCluster) releaseAt(a *cluster.Agent, v bundle.Version, s spec) {
	c.t.Helper()
	if err := c.inject(a, c.build(v, s)); err != nil {
		c.t.Fatal(err)
	}
}

// command runs moult in this process against an agent.
func (c *testCluster) command(a *cluster.Agent, args ...string) (code int, stdout, stderr string) {
	c.t.Helper()
	var out, errs bytes.Buffer
	at := 1
	if args[0] == "member" {
		at = 2 // flags stand after its own command
	}
	all := slices.Concat([]string{"moult"}, args[:at], []string{"--agent", a.Data}, args[at:])
	code = run(c.t.Context(), all, &out, &errs)
	return code, out.String(), errs.String()
}

// put and get call a node at the address for callers of version 1.
func put(a *cluster.Agent, key, value string) error {
	body := fmt.Sprintf(`{"key": %q, "value": %q}`, key, value)
	req, err := http.NewRequest(http.MethodPut, "http://"+a.Versioned(1)+"/set", strings.NewReader(body))
	if err != nil {
		return err
	}
	_, err = answer(http.DefaultClient.Do(req))
	return err
}

func get(a *cluster.Agent, version int, key string) (string, error) {
	url := map[int]string{1: "/get?k=" + key, 2: "/v2/keys/" + key, 3: "/v3/entries/" + key}[version]
	data, err := answer(http.Get("http://" + a.Versioned(version) + url))
	if err != nil {
		return "", err
	}
	var v struct {
		Value string `json:"value"`
		Data  string `json:"data"`
	}
	return v.Value + v.Data, json.Unmarshal(data, &v)
}

func answer(resp *http.Response, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", resp.Request.Method, resp.Request.URL, resp.Status, data)
	}
	return data, err
}

const fillKeys = 20

// fill writes keys to a node; check reads them back.
func (c *testCluster) fill(a *cluster.Agent) {
	c.t.Helper()
	for i := range fillKeys {
		if err := put(a, fmt.Sprintf("key-%d", i), fmt.Sprintf("value-%d", i)); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *testCluster) check(a *cluster.Agent, version int) {
	c.t.Helper()
	for i := range fillKeys {
		got, err := get(a, version, fmt.Sprintf("key-%d", i))
		if err != nil || got != fmt.Sprintf("value-%d", i) {
			c.t.Errorf("%s, as a caller of version %d: key-%d = %q, %v", a.Name, version, i, got, err)
		}
	}
}

// digest is the content of a node's slot for a version.
func (c *testCluster) digest(a *cluster.Agent, v bundle.Version) bundle.Digest {
	c.t.Helper()
	slots, err := transforms.OpenSlots(filepath.Join(a.Data, "state"))
	if err != nil {
		c.t.Fatal(err)
	}
	d, _, _, err := slots.Digest(v)
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

// downs is when which nodes were down, by their agents' logs.
func (c *testCluster) downs() (all []cluster.Down) {
	c.t.Helper()
	for _, a := range c.Agents {
		downs, err := a.Downs()
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, downs...)
	}
	return all
}
