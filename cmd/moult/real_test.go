//go:build unix

package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/store/bundle"
)

// withReal lets tests fetch, build and upgrade software that others wrote: `make real`.
var withReal = flag.Bool("real", false, "upgrade real releases of software that others wrote, which are fetched from the Go module proxy and built, or from Debian")

// realProgram is software from the Go module proxy or from Debian, and which releases of
// it versions 1 and 2 of the cluster run.
type realProgram struct {
	name     string // of the class, and of the file
	module   string
	pkg      string           // below the module
	replace  string           // a line of its go.mod that a module which depends on it has to repeat
	debian   [2]debianPackage // instead of a module
	releases [2]string
	nodes    int               // of which one at a time is down; where more than realNodes, one cluster at a time
	files    map[string]string // that lie beside it, by path
	services []realService
	command  string // HCL, after the file's name
	given    string // the same where it is given its listening sockets; none where it takes none
	env      func(r *realCluster, node int) map[string]string
	health   string // HCL: how the health is asked for
	upgraded string // HCL: the same of the second release, where it is another
}

type realService struct{ name, protocol string }

// realTakesNoSockets is why the software is not upgraded by inherit.
const realTakesNoSockets = "it opens its listening sockets itself and takes none (LISTEN_FDS), as nearly all software does; beanstalkd and pushgateway stand for what does"

// unreachable are the words of the go command where there is no module proxy to ask, and
// of apt where it has no list of packages, or no mirror.
var unreachable = []string{
	"dial tcp", "no such host", "i/o timeout", "TLS handshake timeout", "connection refused", "network is unreachable", "disabled by GOPROXY=off",
	"Unable to locate package", "Could not resolve", "Temporary failure resolving", "Could not connect", "Connection timed out", "Connection failed",
}

// build returns a folder for each release, with the program in it. It is built in a
// module of its own, so that its dependencies are those that its authors chose.
func (p realProgram) build(t *testing.T) (folders [2]string) {
	t.Helper()
	for i, release := range p.releases {
		dir, module := t.TempDir(), t.TempDir()
		text := fmt.Sprintf("module moult-real\n\ngo 1.26\n\nrequire %s %s\n%s\n", p.module, release, p.replace)
		if err := os.WriteFile(filepath.Join(module, "go.mod"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"list", "-deps", p.module + p.pkg}, // fetches what the build needs
			{"build", "-o", filepath.Join(dir, p.name), p.module + p.pkg},
		} {
			cmd := exec.Command("go", args...)
			cmd.Dir = module
			cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "CGO_ENABLED=0")
			out, err := cmd.CombinedOutput()
			if err == nil {
				continue
			}
			if words := cannotReach(string(out)); words != "" {
				t.Skipf("%s@%s cannot be fetched here (%s):\n%s", p.module, release, words, out)
			}
			t.Fatalf("go %s, for %s@%s: %v\n%s", strings.Join(args, " "), p.module, release, err, out)
		}
		for name, text := range p.files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		folders[i] = dir
	}
	return folders
}

// cannotReach returns by which words a command says that there is nobody to ask.
func cannotReach(out string) string {
	for _, words := range unreachable {
		if strings.Contains(out, words) {
			return words
		}
	}
	return ""
}

// eachReal builds the program and runs f as a subtest for every way by which calls can
// reach it.
func (p realProgram) eachReal(t *testing.T, f func(t *testing.T, r *realCluster)) {
	if !*withReal {
		t.Skipf("fetches %s; run `make real`", p.name)
	}
	fetch := p.build
	if p.module == "" {
		fetch = p.unpack
	}
	folders := fetch(t)
	p.nodes = max(p.nodes, realNodes)
	for _, k := range []kind{portable, {"inherit", "proxy"}, {"steer", "proxy"}, {"auto", "auto"}} {
		t.Run(k.String(), func(t *testing.T) {
			if k.attach == "inherit" && p.given == "" {
				t.Skip("not possible with it: " + realTakesNoSockets)
			}
			if err := k.possible(); err != nil {
				t.Skipf("not possible here: %v", err)
			}
			if p.nodes == realNodes {
				t.Parallel()
			}
			f(t, newRealCluster(t, k, p, folders))
		})
	}
}

// realCluster is agents for a program, and where its services are.
type realCluster struct {
	*testCluster
	kind
	program realProgram
	folders [2]string
	first   int // port
}

// realNodes is how many nodes there are at least: while one is down, the other is not.
const realNodes = 2

// portsPerService are a public port and those of two versions.
const portsPerService = 3

func (r *realCluster) port(node, service, offset int) int {
	return r.first + (node*len(r.program.services)+service)*portsPerService + offset
}

// public is the public address of a service of a node.
func (r *realCluster) public(node, service int) string {
	return fmt.Sprintf("127.0.0.1:%d", r.port(node, service, 0))
}

// called returns the addresses at which the first service of a node is called: the public
// one, and that of version 1.
func (r *realCluster) called(node int) []string {
	return []string{r.public(node, 0), fmt.Sprintf("127.0.0.1:%d", r.port(node, 0, 1))}
}

// newRealCluster configures agents, which say nothing of time limits, and starts them.
func newRealCluster(t *testing.T, k kind, p realProgram, folders [2]string) *realCluster {
	t.Helper()
	r := &realCluster{testCluster: newCluster(t, p.nodes), kind: k, program: p, folders: folders}
	ports, err := cluster.ReservePorts(p.nodes * len(p.services) * portsPerService)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ports.Release() }) // the process's end does so, too
	r.first = ports.First
	node := 0
	r.edit(func(_ *cluster.Agent, config string) string {
		head, _, _ := strings.Cut(config, "  service ")
		text := strings.Replace(head, `class = "kv"`, fmt.Sprintf("class = %q", p.name), 1)
		for i, s := range p.services {
			text += fmt.Sprintf("  service %q {\n    address = %q\n    protocol = %q\n    versions = \"%d-%d\"\n  }\n",
				s.name, r.public(node, i), s.protocol, r.port(node, i, 1), r.port(node, i, 2))
		}
		text += "  env = {\n    GODEBUG = \"multipathtcp=0\"\n" // for steer
		if p.env != nil {
			env := p.env(r, node)
			for _, name := range slices.Sorted(maps.Keys(env)) {
				text += fmt.Sprintf("    %s = %q\n", name, env[name])
			}
		}
		node++
		return text + "  }\n}\n"
	})
	r.use(k, "")
	r.up(r.Agents)
	r.formed(p.nodes)
	return r
}

// release injects a release and waits until every node has settled at it.
func (r *realCluster) release(v bundle.Version) {
	r.t.Helper()
	from, objects, health := "", "", r.program.health
	if v > 1 {
		health = cmp.Or(r.program.upgraded, health)
		from = fmt.Sprintf("from = %d", v-1)
		objects = "past { compatible = true }\n    future { compatible = true }"
	}
	command := r.program.command
	if r.attach == "inherit" {
		command = r.program.given
	}
	var services strings.Builder
	for _, s := range r.program.services {
		fmt.Fprintf(&services, "    service %q { protocol = %q }\n", s.name, s.protocol)
	}
	text := fmt.Sprintf(`release {
  version = %d
  class %q {
    %s
    artifact {
      os   = %q
      arch = %q
      path = %q
    }
    command = ["./%s", %s]
%s    health {
      %s
      min_healthy_time = "3s"
    }
    %s
    schedule {
      max_unavailable = "1"
    }
  }
}
`, v, r.program.name, from, runtime.GOOS, runtime.GOARCH, r.folders[v-1], r.program.name, command, services.String(), health, objects)
	if err := r.inject(r.Agents[v-1], r.bundle(v, text)); err != nil {
		r.t.Fatal(err)
	}
	r.settledAt(r.Agents[0], v, r.program.nodes)
}

// realClients use software while it is upgraded.
type realClients interface {
	start(r *realCluster)
	load() *realLoad
	wrong() []string // what must not have been
}

// upgrade installs the first release and upgrades to the second while clients use it.
// What they found wrong is said when the test ends, however it does.
func (r *realCluster) upgrade(clients realClients) {
	r.t.Helper()
	l := clients.load()
	r.t.Cleanup(func() {
		l.end()
		for _, wrong := range clients.wrong() {
			r.t.Error(wrong)
		}
	})
	r.release(1)
	r.inUse(r.kind)
	clients.start(r)
	l.flow(r)
	began := time.Now()
	r.release(2)
	took, during := time.Since(began), l.counts()
	l.flow(r)
	l.end()
	r.t.Logf("%s: %s %s to %s in %.1f s on %d nodes; until then %v, and in the end %v; %d failed, the slowest took %v",
		r.kind, r.program.name, r.program.releases[0], r.program.releases[1], took.Seconds(), r.program.nodes, during, l.counts(), len(l.failed), l.slowest.Round(time.Millisecond))
}

// realLoad is clients that go on until they are ended, and what they found.
type realLoad struct {
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	done    map[string]int // mu; how often, by what is to go on
	slowest time.Duration  // mu
	failed  []string       // mu
}

func newRealLoad() *realLoad {
	l := &realLoad{done: map[string]int{}}
	l.ctx, l.stop = context.WithCancel(context.Background())
	return l
}

func (l *realLoad) load() *realLoad { return l }

// each is a client: it does something, of which the argument tells how often it has
// before, until that reports false or the load is ended.
func (l *realLoad) each(pace time.Duration, do func(i int) bool) {
	pause := time.NewTicker(pace)
	defer pause.Stop()
	for i := 0; l.ctx.Err() == nil && do(i); i++ {
		select {
		case <-pause.C:
		case <-l.ctx.Done():
		}
	}
}

// end ends the clients, each when it has done what it is at.
func (l *realLoad) end() {
	l.stop()
	l.wg.Wait()
}

// goesOn says that something is to be done again and again.
func (l *realLoad) goesOn(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done[what] += 0
}

// did notes that something was done once, and how long it took.
func (l *realLoad) did(what string, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done[what]++
	l.slowest = max(l.slowest, took)
}

func (l *realLoad) counts() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.done)
}

func (l *realLoad) fail(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, fmt.Sprintf(format, args...))
}

// wrong returns what failed, or the first of it.
func (l *realLoad) wrong() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.failed[:min(len(l.failed), 10)])
}

// realFlow is how often all is to be done before the upgrade, and again after it.
const realFlow = 20

// flow waits until all that is to go on does, or something has failed.
func (l *realLoad) flow(r *realCluster) {
	r.t.Helper()
	before := l.counts()
	r.until(r.Agents[0], "clients to go on", func(control.Status) bool {
		now := l.counts()
		for what, n := range before {
			if now[what] < n+realFlow {
				return len(l.wrong()) > 0
			}
		}
		return true
	})
}

// realClient is what a program has that goes on, or one that makes one call, as it ends.
// Whoever keeps a connection may find it ended by the server when a call is on its way,
// which is HTTP's own race; Go makes the call again if it knows that it may, by the field
// Idempotency-Key, which it does not send where it is empty. Who keeps none marks nothing.
func realClient(lasting bool) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = !lasting
	return &http.Client{Transport: transport}
}

// well waits until every agent sees all nodes as they should be after the upgrade.
func (r *realCluster) well() {
	r.t.Helper()
	for _, a := range r.Agents {
		r.until(a, "all to be as it was", func(s control.Status) bool {
			return cluster.Settled(s, 2) == r.program.nodes && cluster.Reachable(s) == r.program.nodes
		})
	}
}

// TestRealUnreachable shows that only a proxy that is out of reach, or a file that Debian has
// removed, lets a test be skipped, not software that does not build or a file that is another.
func TestRealUnreachable(t *testing.T) {
	for out, skip := range map[string]bool{
		`go: example.com/x@v1: Get "https://proxy/x": dial tcp: lookup proxy: no such host`: true,
		`go: example.com/x@v1: module lookup disabled by GOPROXY=off`:                       true,
		`go: example.com/x@v9: reading x.info: 404 Not Found`:                               false,
		`main.go:96:13: undefined: svc.ErrStop`:                                             false,
		`E: Unable to locate package x`:                                                     true,
		`E: Failed to fetch http://mirror/x.deb  Could not resolve 'mirror'`:                true,
		`E: Failed to fetch http://mirror/x.deb  404  Not Found [IP: 192.0.2.1 80]`:         false,
		`E: Failed to fetch http://mirror/x.deb  Hash Sum mismatch`:                         false,
	} {
		if got := cannotReach(out) != ""; got != skip {
			t.Errorf("%s: skipped %v, want %v", out, got, skip)
		}
		if got, want := removed(out), strings.Contains(out, "x.deb  404"); got != want {
			t.Errorf("%s: removed from Debian's pool %v, want %v", out, got, want)
		}
	}
}
