package simlayer

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"moult/store/bundle"
	"moult/testdata/kit"
)

// serveBench is a server of BenchmarkRelay: "node tcp unix" or "relay backend
// public". It ends with its standard input.
func serveBench(role string) {
	args := strings.Fields(role)
	var err error
	switch args[0] {
	case "node":
		bodies := map[string][]byte{"/128": bytes.Repeat([]byte("x"), 128), "/65536": bytes.Repeat([]byte("x"), 65536)}
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body := bodies[r.URL.Path]
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = w.Write(body)
		})
		for i, network := range []string{"tcp", "unix"} {
			var ln net.Listener
			if ln, err = net.Listen(network, args[i+1]); err != nil {
				break
			}
			go func() { _ = http.Serve(ln, h) }()
		}
	case "relay":
		var l *Layer
		l, err = Start(Config{Services: map[string]Service{"api": {Public: args[2], Protocol: bundle.ProtocolHTTP}}})
		if err == nil {
			err = l.Apply(Routing{Native: 1, Backends: map[string]string{"api": args[1]}})
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// way is one way to the node that BenchmarkRelay measures.
type way struct {
	addr string
	pids []int // whose CPU time counts, the node's aside
	rps  []float64
	cpu  []float64 // of the servers, in µs per request
	p50  []float64 // in µs
}

// BenchmarkRelay measures same-version calls through the relay, against direct
// ones and, where they are installed, HAProxy and nginx: 128 B and 64 KiB, 1 and
// 32 connections, all ways in turn within one run. Twice direct is the noise.
// Every server is a process of its own; cpu is theirs together for a request.
func BenchmarkRelay(b *testing.B) {
	dir := b.TempDir()
	node, sock := kit.ClosedPort(b), filepath.Join(dir, "node.sock")
	nodePID := startRole(b, "node "+node+" "+sock)
	ways := map[string]*way{"direct": {addr: node}, "directAgain": {addr: node}}
	for name, backend := range map[string]string{"relay": node, "relayUnix": "unix:" + sock} {
		addr := kit.ClosedPort(b)
		pid := startRole(b, "relay "+backend+" "+addr)
		ways[name] = &way{addr: addr, pids: []int{pid}}
	}
	for name, backend := range map[string]string{"haproxy": node, "haproxyUnix": "unix@" + sock} {
		startOther(b, ways, name, "haproxy", fmt.Sprintf(`
global
  nbthread 2
  maxconn 4096
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen l
  bind %%s
  server node %s
`, backend), "-db", "-f")
	}
	for name, backend := range map[string]string{"nginx": node, "nginxUnix": "unix:" + sock} {
		startOther(b, ways, name, "nginx", fmt.Sprintf(`
%s
user root; daemon off; worker_processes 2; pid %s/%s.pid; error_log /dev/null;
events { worker_connections 4096; }
stream { server { listen %%s; proxy_pass %s; } }
`, nginxModule(), dir, name, backend), "-c")
	}
	names := slices.Sorted(maps.Keys(ways))
	for _, name := range names {
		awaitHTTP(b, ways[name].addr)
	}
	for _, size := range []string{"128", "65536"} {
		for _, conns := range []int{1, 32} {
			b.Run(fmt.Sprintf("bytes=%s/conns=%d", size, conns), func(b *testing.B) {
				for _, w := range ways {
					w.rps, w.cpu, w.p50 = nil, nil, nil
				}
				for range b.N {
					for _, name := range names {
						ways[name].measure(b, nodePID, "/"+size, conns)
					}
				}
				report(b, ways, names)
			})
		}
	}
}

// measure drives one way for a short while.
func (w *way) measure(b *testing.B, node int, path string, conns int) {
	cpu := func() (sum time.Duration) {
		for _, pid := range append([]int{node}, w.pids...) {
			sum += cpuTime(b, pid)
		}
		return sum
	}
	var wg sync.WaitGroup
	took := make([][]float64, conns)
	before, began := cpu(), time.Now()
	for i := range conns {
		wg.Go(func() { took[i] = drive(b, w.addr, path, 250*time.Millisecond) })
	}
	wg.Wait()
	all := slices.Concat(took...)
	n := float64(len(all))
	if n == 0 {
		b.Fatalf("%s: no call", w.addr)
	}
	w.rps = append(w.rps, n/time.Since(began).Seconds())
	w.cpu = append(w.cpu, float64((cpu()-before).Microseconds())/n)
	w.p50 = append(w.p50, median(all))
}

// drive makes calls on one connection and returns how long each took, in µs.
func drive(b *testing.B, addr, path string, d time.Duration) (took []float64) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Error(err)
		return nil
	}
	defer c.Close()
	br := bufio.NewReaderSize(c, 64<<10)
	call := []byte("GET " + path + " HTTP/1.1\r\nHost: node\r\n\r\n")
	size, _ := strconv.Atoi(path[1:])
	for end := time.Now().Add(d); ; {
		began := time.Now()
		if began.After(end) {
			return took
		}
		if _, err := c.Write(call); err != nil {
			b.Error(err)
			return took
		}
		for {
			line, err := br.ReadSlice('\n')
			if err != nil {
				b.Error(err)
				return took
			}
			if len(line) == 2 {
				break
			}
		}
		if _, err := br.Discard(size); err != nil {
			b.Error(err)
			return took
		}
		took = append(took, float64(time.Since(began).Nanoseconds())/1e3)
	}
}

func report(b *testing.B, ways map[string]*way, names []string) {
	b.ReportMetric(0, "ns/op")
	direct := ways["direct"]
	b.Logf("%-12s %9s %7s %9s %7s %9s", "way", "calls/s", "of dir.", "CPU µs", "of dir.", "p50 µs")
	for _, name := range names {
		w := ways[name]
		rps, cpu := ratio(w.rps, direct.rps), ratio(w.cpu, direct.cpu)
		b.Logf("%-12s %9.0f %7.2f %9.1f %7.2f %9.1f", name, median(w.rps), rps, median(w.cpu), cpu, median(w.p50))
		if name != "direct" {
			b.ReportMetric(rps, name+"-calls/direct")
			b.ReportMetric(cpu, name+"-cpu/direct")
		}
	}
}

// ratio is the median of the ratios of rounds.
func ratio(a, b []float64) float64 {
	var all []float64
	for i := range a {
		all = append(all, a[i]/b[i])
	}
	return median(all)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// cpuTime is the CPU time that a process has used, with all its threads.
func cpuTime(b *testing.B, pid int) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|2, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// startRole runs the test binary as a server.
func startRole(b *testing.B, role string) (pid int) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), benchRole+"="+role)
	return startServer(b, cmd)
}

// startServer runs a server until the benchmark ends. It gets a pipe as its
// standard input.
func startServer(b *testing.B, cmd *exec.Cmd) (pid int) {
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// startOther runs another relay, if it is installed: config has %s where its
// address goes.
func startOther(b *testing.B, ways map[string]*way, name, program, config string, args ...string) {
	path, err := exec.LookPath(program)
	if err != nil {
		b.Logf("%s is not measured: %v", name, err)
		return
	}
	if program == "nginx" && nginxModule() == "" {
		b.Logf("%s is not measured: it lacks the stream module (libnginx-mod-stream)", name)
		return
	}
	addr := kit.ClosedPort(b)
	file := filepath.Join(b.TempDir(), name+".conf")
	if err := os.WriteFile(file, []byte(fmt.Sprintf(config, addr)), 0o600); err != nil {
		b.Fatal(err)
	}
	pid := startServer(b, exec.Command(path, append(args, file)...))
	awaitHTTP(b, addr)
	w := &way{addr: addr, pids: []int{pid}}
	if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)); err == nil {
		for _, child := range strings.Fields(string(data)) {
			n, _ := strconv.Atoi(child)
			w.pids = append(w.pids, n)
		}
	}
	ways[name] = w
}

// nginxModule is the line that loads nginx's stream module.
func nginxModule() string {
	const file = "/usr/lib/nginx/modules/ngx_stream_module.so"
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return "load_module " + file + ";"
}

// awaitHTTP waits until a server answers.
func awaitHTTP(b *testing.B, addr string) {
	eventually(b, "an answer of "+addr, func() bool {
		resp, err := http.Get("http://" + addr + "/128")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return true
	})
	http.DefaultClient.CloseIdleConnections()
}
