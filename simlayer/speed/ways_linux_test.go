package speed

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"moult/simlayer"
	"moult/simlayer/attach"
	"moult/simlayer/connect"
	"moult/store/bundle"
)

// patience is how long anything may take that is not measured.
const patience = 30 * time.Second

// way is one way to the node.
type way struct {
	name   string
	addr   string
	client *process
	pids   []int  // whose CPU time counts, the node's aside
	put    string // the path of its PUT, and the field that it knows
	field  string
}

// process is a part that the test binary plays.
type process struct {
	reply
	t   testing.TB
	pid int
	in  io.WriteCloser
	out *bufio.Reader
}

// begin starts a part and waits until it is ready. It ends with the test.
func begin(t testing.TB, r role, change func(*exec.Cmd)) *process {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	if change != nil {
		change(cmd)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil && !t.Failed() {
			t.Errorf("%s: %v", r.Kind, err)
		}
	})
	p.reply = p.hear(r.Kind)
	return p
}

func (p *process) hear(what string) (r reply) {
	p.t.Helper()
	line, err := p.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err != nil || r.Err != "" {
		p.t.Fatalf("%s: %v %s", what, err, r.Err)
	}
	return r
}

func (p *process) ask(o order) reply {
	p.t.Helper()
	text, err := json.Marshal(o)
	if err == nil {
		_, err = p.in.Write(append(text, '\n'))
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return p.hear(o.Do + " " + o.Addr)
}

// rig is the node with all ways to it.
type rig struct {
	t      testing.TB
	o      options
	dir    string
	bpf    string // a BPF file system of the test's own
	noBPF  error
	node   *process
	sock   string
	client *process
	relay  *process // by TCP
	ways   []*way   // of calls that nobody changes
	json   []*way   // of calls that are changed, and what they compare with
	left   []string // what is not measured, and why
}

func (r *rig) skip(name string, why any) {
	r.left = append(r.left, fmt.Sprintf("%s is not measured: %v", name, why))
}

// mountBPF finds out whether the kernel's part can be measured.
func (r *rig) mountBPF() {
	r.bpf = filepath.Join(r.dir, "bpf")
	if os.Getenv(boxVar) != "on" {
		r.noBPF = fmt.Errorf("it needs root, and namespaces of its own")
	} else if r.noBPF = attach.MountBPFFS(r.bpf); r.noBPF == nil {
		r.t.Cleanup(func() {
			if err := unix.Unmount(r.bpf, unix.MNT_DETACH); err != nil {
				r.t.Error(err)
			}
		})
	}
}

// build starts everything.
func build(t testing.TB, o options) *rig {
	r := &rig{t: t, o: o, dir: t.TempDir()}
	r.mountBPF()
	r.sock = filepath.Join(r.dir, "node.sock")
	inherited, attached := r.inherit()
	r.client = begin(t, role{Kind: "client"}, nil)
	node := r.node.Public
	// The second has a client of its own, as `connect` must: that is noise too.
	other := begin(t, role{Kind: "client"}, nil)
	direct := func(name string) *way {
		return &way{name: name, addr: node, client: map[string]*process{wayDirect: r.client, wayAgain: other}[name]}
	}
	r.ways = append(r.ways, direct(wayDirect), direct(wayAgain))
	if inherited != nil {
		attached()
		r.ways = append(r.ways, inherited)
	}
	r.steer()
	r.connect()
	r.relay = r.layer("relay-tcp", role{Kind: "relay", Backend: node})
	unixRelay := r.layer("relay-unix", role{Kind: "relay", Backend: "unix:" + r.sock, Rules: renameRules})
	r.ways = append(r.ways,
		&way{name: wayRelayUnix, addr: unixRelay.Public, client: r.client, pids: []int{unixRelay.pid}},
		&way{name: wayRelayTCP, addr: r.relay.Public, client: r.client, pids: []int{r.relay.pid}})
	r.others()
	proxy := r.layer("reverse-proxy", role{Kind: "proxy", Backend: node})
	r.ways = append(r.ways, &way{name: wayProxy, addr: proxy.Public, client: r.client, pids: []int{proxy.pid}})

	native := func(w *way) *way {
		c := *w
		c.put, c.field = "/v2/bench", "title"
		return &c
	}
	past := func(name string, p *process, pids ...int) *way {
		return &way{name: name, addr: p.Past, client: r.client, pids: append(pids, p.pid), put: "/v1/bench", field: "name"}
	}
	r.json = []*way{
		native(direct(wayDirect)), native(direct(wayAgain)),
		native(&way{name: wayRelayUnix, addr: unixRelay.Public, client: r.client, pids: []int{unixRelay.pid}}),
		native(&way{name: wayProxy, addr: proxy.Public, client: r.client, pids: []int{proxy.pid}}),
		past(wayRules, unixRelay),
	}
	r.hosted(past)
	return r
}

// layer starts a process of the agent's.
func (r *rig) layer(name string, as role) *process {
	if r.o.profile != "" {
		as.Profile = filepath.Join(r.o.profile, name+".pprof")
	}
	return begin(r.t, as, nil)
}

// inherit starts the node, with the socket of a pair where that can be.
func (r *rig) inherit() (w *way, attached func()) {
	as := role{Kind: "node", Sock: r.sock}
	pair, err := attach.ListenPair(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		r.skip(wayInherit, err)
		r.node = begin(r.t, as, nil)
		return nil, nil
	}
	r.t.Cleanup(func() { pair.Close() })
	f, err := pair.Node()
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	as.Inherit = true
	r.node = begin(r.t, as, func(c *exec.Cmd) { c.ExtraFiles = []*os.File{f} })
	return &way{name: wayInherit, addr: pair.Addr().String()}, func() {
		if err := pair.Point(true); err != nil {
			r.t.Fatal(err)
		}
		w.client = r.client
	}
}

// steer has a layer of this process steer callers to the node's socket.
func (r *rig) steer() {
	err := r.noBPF
	if err == nil {
		err = attach.Probe(attach.KindSteer)
	}
	if err == nil {
		err = attach.Probe(attach.KindTake)
	}
	if err != nil {
		r.skip(waySteer, err)
		return
	}
	s, err := attach.OpenSteer(filepath.Join(r.bpf, "moult"), attach.Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			r.t.Error(err)
		}
	})
	l, err := simlayer.Start(simlayer.Config{Services: map[string]simlayer.Service{
		"api": {Public: "127.0.0.1:0", Protocol: bundle.ProtocolHTTP, Attach: simlayer.AttachSteer}}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.Close() })
	l.SetSteer(s)
	if err := l.Apply(simlayer.Routing{Native: 2, Backends: map[string]string{"api": r.node.Public}, Processes: []int{r.node.pid}}); err != nil {
		r.t.Fatal(err)
	}
	if why := l.Fallen("api"); why != "" {
		r.t.Fatal("callers are relayed: ", why)
	}
	// This process is the agent: what it does for callers counts.
	r.ways = append(r.ways, &way{name: waySteer, addr: l.Addresses()["api"].Public, client: r.client, pids: []int{os.Getpid()}})
}

// connect starts a client whose calls of an address at which nobody listens are
// led to the node.
func (r *rig) connect() {
	o := connect.Options{Dir: r.bpf, Name: fmt.Sprintf("speed_%d", time.Now().UnixNano())}
	err := r.noBPF
	if err == nil {
		err = connect.Probe(o)
	}
	if err != nil {
		r.skip(wayConnect, err)
		return
	}
	c, err := connect.Open(o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := c.Remove(); err != nil {
			r.t.Error(err)
		}
	})
	public := netip.MustParseAddrPort("127.77.0.1:7000")
	if left, err := c.Set(connect.Table{TCP: map[netip.AddrPort]netip.AddrPort{public: netip.MustParseAddrPort(r.node.Public)}}); err != nil || len(left) > 0 {
		r.t.Fatal(err, left)
	}
	inside := begin(r.t, role{Kind: "client"}, func(cmd *exec.Cmd) {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(c.Cgroup().Fd())
	})
	r.ways = append(r.ways, &way{name: wayConnect, addr: public.String(), client: inside})
}

// others starts the relays of other projects, as an operator would set them up
// who leaves to them what they choose by themselves.
func (r *rig) others() {
	haproxy := func(backend, more string) string {
		return fmt.Sprintf(`
global
  maxconn 4096
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  %s
listen l
  bind %%s
  server node %s
`, more, backend)
	}
	nginx := func(name, backend string) string {
		return fmt.Sprintf(`
load_module %s;
user root; daemon off; worker_processes auto; pid %s/%s.pid; error_log /dev/null;
events { worker_connections 4096; }
stream { server { listen %%s; proxy_pass %s; } }
`, nginxModule, r.dir, name, backend)
	}
	r.other(wayHAProxy, "haproxy", haproxy(r.node.Public, ""), "-db", "-f")
	r.other(wayHAProxySplice, "haproxy", haproxy(r.node.Public, "option splice-auto"), "-db", "-f")
	r.other(wayHAProxyUnix, "haproxy", haproxy("unix@"+r.sock, ""), "-db", "-f")
	r.other(wayNginx, "nginx", nginx("tcp", r.node.Public), "-c")
	r.other(wayNginxUnix, "nginx", nginx("unix", "unix:"+r.sock), "-c")
}

const nginxModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

// other starts a relay, if it is installed. config has %s where its address goes.
func (r *rig) other(name, program, config string, args ...string) {
	path, err := exec.LookPath(program)
	if err == nil && program == "nginx" {
		if _, err = os.Stat(nginxModule); err != nil {
			err = fmt.Errorf("%w: the Debian package libnginx-mod-stream has it", err)
		}
	}
	if err != nil {
		r.skip(name, err)
		return
	}
	ln, err := listenTCP()
	if err != nil {
		r.t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	file := filepath.Join(r.t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(fmt.Sprintf(config, addr)), 0o600); err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(path, append(args, file)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait() // it tells of the signal
	})
	w := &way{name: name, addr: addr, client: r.client, pids: []int{cmd.Process.Pid}}
	r.await(addr)
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, child := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(child)
		if err != nil {
			r.t.Fatal(err)
		}
		w.pids = append(w.pids, pid)
	}
	r.ways = append(r.ways, w)
}

// await waits until calls are answered at an address.
func (r *rig) await(addr string) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		c, err := dial(addr)
		if err == nil {
			err = c.call([]byte(get(small)))
			c.Close()
		}
		if err == nil {
			return
		}
		if time.Now().After(end) {
			r.t.Fatal(err)
		}
	}
}

func get(size int) string { return fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: node\r\n\r\n", size) }
