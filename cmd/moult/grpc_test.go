//go:build unix

package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/store/bundle"
	grpckv "moult/testdata/grpc"
	"moult/testdata/kit"
)

// grpcSpec is a release of the gRPC sample. The operator starts its nodes.
const grpcSpec = `release {
  version = %d
  class "kv" {
    %s
    artifact {
      os   = %q
      arch = %q
      path = "grpc-kv"
    }
    command = ["./grpc-kv", "%d", "--listen", "${service.api}", "--state", "${state}"]
    service "api" {
      protocol = "http"
    }
    health {
      tcp              = true
      interval         = "100ms"
      min_healthy_time = "500ms"
      healthy_deadline = "1m"
    }
    %s
    schedule {
      strategy = "manual"
    }
  }
}
`

// TestGRPC takes a gRPC service over a compatible release and one that renames
// the service, node by node, with clients of each version at every node: unary
// calls and streams, whose denials come in gRPC's terms.
func TestGRPC(t *testing.T) {
	inMixed(t)
	eachKind(t, func(t *testing.T, k kind) {
		if k.egress != "proxy" && k.egress != "auto" {
			t.Skip("the sample's nodes call nobody, so their egress makes no difference: see " + portable.String())
		}
		c := newCluster(t, 3)
		c.use(k, "    external_version = 1\n")
		c.buildGRPC()
		n1, n2, n3 := c.Agents[0], c.Agents[1], c.Agents[2]
		c.up(c.Agents)
		c.formed(3)
		c.grpcRelease(1, "")
		c.settledAt(n1, 1, 3)
		c.inUse(k)

		l := &grpcLoad{c: c, reasons: map[string]int{}}
		defer l.end()
		l.begin(1, "public", func(a *cluster.Agent) string { return a.Public() })
		l.versioned(1)
		l.flow(20)
		c.grpcRelease(2, "past { compatible = true }\n    future { compatible = true }")
		l.versioned(2)
		c.upgrade(n1, 2)
		c.upgrade(n2, 2)
		l.flow(20)

		c.grpcRelease(3, "past { rules = \"rules/past-3.hcl\" }\n    future { rules = \"rules/future-3.hcl\" }")
		l.versioned(3)
		c.upgrade(n1, 3) // now there are nodes of 3, 2 and 1
		l.flow(40)
		c.clearDenied(n1)
		c.upgrade(n2, 3)
		c.upgrade(n3, 3)
		l.flow(20)
		l.end()
		l.report()
		for _, wrong := range l.wrong(grpcReasons(t)) {
			t.Error(wrong)
		}
	})
}

// buildGRPC builds the sample, and puts the author's rules beside it.
func (c *testCluster) buildGRPC() {
	c.t.Helper()
	kit.Program(c.t, filepath.Join(c.dir, "grpc-kv"), "testdata/grpc/cmd/grpc-kv")
	if err := os.CopyFS(c.dir, grpckv.Files); err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCluster) grpcRelease(v bundle.Version, simulations string) {
	c.t.Helper()
	from := ""
	if v > 1 {
		from = fmt.Sprintf("from = %d", v-1)
	}
	text := fmt.Sprintf(grpcSpec, v, from, runtime.GOOS, runtime.GOARCH, v, simulations)
	if err := c.inject(c.Agents[0], c.bundle(v, text)); err != nil {
		c.t.Fatal(err)
	}
}

// clearDenied has clients of the older versions try at a node of version 3 what
// it cannot do for them.
func (c *testCluster) clearDenied(a *cluster.Agent) {
	c.t.Helper()
	for version := 1; version <= 2; version++ {
		client, err := grpckv.Dial(version, a.Versioned(version))
		if err != nil {
			c.t.Fatal(err)
		}
		err = client.Clear(c.t.Context())
		if s := status.Convert(err); s.Code() != codes.Unimplemented || !strings.HasPrefix(s.Message(), "this node runs version 3, which cannot remove all keys") {
			c.t.Errorf("clear by a client of version %d: %v", version, err)
		}
		_ = client.Close()
	}
}

// grpcReasons returns the reasons that the author of release 3 wrote.
func grpcReasons(t *testing.T) (reasons []string) {
	t.Helper()
	for _, name := range []string{"rules/past-3.hcl", "rules/future-3.hcl"} {
		data, err := grpckv.Files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`reason += "(.*)"`).FindAllSubmatch(data, -1) {
			reasons = append(reasons, string(m[1]))
		}
	}
	return reasons
}

// grpcLoad is clients that call all the time.
type grpcLoad struct {
	c  *testCluster
	wg sync.WaitGroup

	mu      sync.Mutex
	ended   bool           // mu
	ok      map[string]int // mu; by client
	reasons map[string]int // mu; of denied calls
	failed  []string       // mu
	slowest time.Duration  // mu
}

// versioned starts clients of a version once every node answers them.
func (l *grpcLoad) versioned(version int) {
	l.c.t.Helper()
	for _, a := range l.c.Agents {
		l.c.until(a, fmt.Sprintf("every node to answer callers of version %d", version), func(s control.Status) bool {
			return cluster.Answering(s, bundle.Version(version)) == len(l.c.Agents)
		})
	}
	l.begin(version, fmt.Sprint("v", version), func(a *cluster.Agent) string { return a.Versioned(version) })
}

// begin starts one client at every node.
func (l *grpcLoad) begin(version int, name string, at func(*cluster.Agent) string) {
	l.c.t.Helper()
	for _, a := range l.c.Agents {
		client, err := grpckv.Dial(version, at(a))
		if err != nil {
			l.c.t.Fatal(err)
		}
		w := &grpcWorker{load: l, client: client, version: version, name: name + " at " + a.Name}
		l.wg.Go(func() {
			defer client.Close()
			pause := time.NewTicker(20 * time.Millisecond)
			defer pause.Stop()
			for i := 0; !l.over(); i++ {
				w.round(i)
				<-pause.C
			}
		})
	}
}

func (l *grpcLoad) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

// end waits until every client has ended its round.
func (l *grpcLoad) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.wg.Wait()
}

// flow waits until every client has made n more calls.
func (l *grpcLoad) flow(n int) {
	l.c.t.Helper()
	l.mu.Lock()
	goals := maps.Clone(l.ok)
	l.mu.Unlock()
	l.c.until(l.c.Agents[0], "calls to go on", func(control.Status) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for name := range l.ok {
			if l.ok[name] < goals[name]+n && len(l.failed) == 0 {
				return false
			}
		}
		return len(l.ok) > 0 || len(l.failed) > 0
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.failed) > 0 {
		l.c.t.Fatalf("a call failed: %s", l.failed[0])
	}
}

// report prints the figures.
func (l *grpcLoad) report() {
	l.c.t.Helper()
	total := 0
	for _, name := range slices.Sorted(maps.Keys(l.ok)) {
		l.c.t.Logf("%s: %d calls", name, l.ok[name])
		total += l.ok[name]
	}
	l.c.t.Logf("%d calls, %d failed; the slowest took %v", total, len(l.failed), l.slowest.Round(time.Millisecond))
	for _, reason := range slices.Sorted(maps.Keys(l.reasons)) {
		l.c.t.Logf("  denied %d times: %s", l.reasons[reason], reason)
	}
}

// wrong returns what must not have been, once the load has ended. Denied calls
// must have been denied in the words of one of reasons.
func (l *grpcLoad) wrong(reasons []string) (wrong []string) {
	if n := len(l.failed); n > 0 {
		wrong = append(wrong, fmt.Sprintf("%d calls failed:\n%s", n, strings.Join(l.failed[:min(n, 10)], "\n")))
	}
	for _, reason := range slices.Sorted(maps.Keys(l.reasons)) {
		if !slices.Contains(reasons, reason) {
			wrong = append(wrong, fmt.Sprintf("denied with a reason that no author wrote: %q", reason))
		}
	}
	if len(l.reasons) < 2 {
		wrong = append(wrong, fmt.Sprintf("calls were denied for %d reasons, want those of Remove and of Swap", len(l.reasons)))
	}
	return wrong
}

// grpcCalls is what a client of the sample can do.
type grpcCalls interface {
	Get(ctx context.Context, key string) (string, error)
	Set(ctx context.Context, key, value string) error
	List(ctx context.Context) ([]string, error)
	Delete(ctx context.Context, key string) (string, error)
	Swap(ctx context.Context, key, old, value string) error
}

// grpcWorker is one client of one node. It is the only writer of its keys.
type grpcWorker struct {
	load     *grpcLoad
	client   grpcCalls
	version  int
	name     string
	upgraded bool // version 3: the node is at 3
}

// round writes and reads a key, and tries what only some versions have.
func (w *grpcWorker) round(i int) {
	key := fmt.Sprintf("%s/%d", w.name, i%8)
	value := fmt.Sprintf("%s #%d é✓\x00%s", key, i, strings.Repeat("x", i*37%512))
	if !w.do("set", func(ctx context.Context) error { return w.client.Set(ctx, key, value) }) {
		return
	}
	w.do("get", func(ctx context.Context) error {
		got, err := w.client.Get(ctx, key)
		if err == nil && got != value {
			err = fmt.Errorf("key %q is %q, want %q", key, got, value)
		}
		return err
	})
	w.do("list", func(ctx context.Context) error {
		keys, err := w.client.List(ctx)
		if err == nil && !slices.Contains(keys, key) {
			err = fmt.Errorf("key %q is not among the %d listed", key, len(keys))
		}
		return err
	})
	switch w.version {
	case 2:
		w.delete(key)
	case 3:
		w.newest(key, value)
	}
}

// delete deletes, which a node of version 1 has not, and says so itself.
func (w *grpcWorker) delete(key string) {
	w.do("delete", func(ctx context.Context) error {
		_, err := w.client.Delete(ctx, key)
		if status.Code(err) == codes.Unimplemented {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err = w.client.Get(ctx, key); status.Code(err) != codes.NotFound {
			return fmt.Errorf("after it was deleted, key %q: %v", key, err)
		}
		return nil
	})
}

// newest makes the calls that nodes of version 3 carry out and others deny.
func (w *grpcWorker) newest(key, value string) {
	w.do("swap", func(ctx context.Context) error {
		return w.denied(w.client.Swap(ctx, key, value, value+"'"), func() error {
			if got, err := w.client.Get(ctx, key); err != nil || got != value+"'" {
				return fmt.Errorf("after the swap, key %q is %q, %v", key, got, err)
			}
			return nil
		})
	})
	w.do("remove", func(ctx context.Context) error {
		got, err := w.client.Delete(ctx, key)
		return w.denied(err, func() error {
			if want := value + "'"; got != want && got != value {
				return fmt.Errorf("removed %q, want %q", got, want)
			}
			return nil
		})
	})
}

// denied counts a call that was denied, as it may be until one has been carried
// out; or checks one that was carried out.
func (w *grpcWorker) denied(err error, check func() error) error {
	if status.Code(err) == codes.Unimplemented && !w.upgraded {
		w.load.mu.Lock()
		w.load.reasons[status.Convert(err).Message()]++
		w.load.mu.Unlock()
		return nil
	}
	if err != nil {
		return err
	}
	w.upgraded = true
	return check()
}

// do makes a call and counts it.
func (w *grpcWorker) do(what string, call func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	began := time.Now()
	err := call(ctx)
	l := w.load
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slowest = max(l.slowest, time.Since(began))
	if err != nil {
		l.failed = append(l.failed, fmt.Sprintf("%s %s: %s: %v", began.UTC().Format("15:04:05.000"), w.name, what, err))
		return false
	}
	if l.ok == nil {
		l.ok = map[string]int{}
	}
	l.ok[w.name]++
	return true
}

// memory is a client of version 3 with a node of its own, which lie says how to
// spoil.
type memory struct {
	values map[string]string
	lie    string
}

func (m memory) Get(_ context.Context, key string) (string, error) {
	value, ok := m.values[key]
	if !ok && m.lie != "a removed key comes back" {
		return "", status.Error(codes.NotFound, "not found")
	}
	if m.lie == "a value is changed" {
		value += "!"
	}
	return value, nil
}

func (m memory) Set(_ context.Context, key, value string) error {
	if m.lie == "an error" {
		return status.Error(codes.Unavailable, "planted")
	}
	m.values[key] = value
	return nil
}

func (m memory) List(context.Context) ([]string, error) {
	if m.lie == "a key is not listed" {
		return nil, nil
	}
	return slices.Collect(maps.Keys(m.values)), nil
}

func (m memory) Delete(_ context.Context, key string) (string, error) {
	switch m.lie {
	case "a removed value is not told":
		return "", nil
	case "a denial in other words":
		return "", status.Error(codes.Unimplemented, "no")
	}
	value := m.values[key]
	delete(m.values, key)
	return value, nil
}

func (m memory) Swap(_ context.Context, key, _, value string) error {
	switch m.lie {
	case "a denial in other words":
		return status.Error(codes.Unimplemented, "never")
	case "a swap is not carried out":
		return nil
	}
	m.values[key] = value
	return nil
}

// TestGRPCLoadCatches plants faults that the load of TestGRPC must find.
func TestGRPCLoadCatches(t *testing.T) {
	for lie, version := range map[string]int{
		"": 3, "an error": 3, "a value is changed": 3, "a key is not listed": 3, "a removed value is not told": 3,
		"a swap is not carried out": 3, "a denial in other words": 3, "a removed key comes back": 2,
	} {
		// The two reasons are those that an upgrade sees before its end.
		reasons := grpcReasons(t)
		l := &grpcLoad{reasons: map[string]int{reasons[1]: 1, reasons[2]: 1}}
		w := &grpcWorker{load: l, client: memory{map[string]string{}, lie}, version: version, name: "w"}
		for i := range 3 {
			w.round(i)
		}
		if wrong := l.wrong(reasons); (len(wrong) == 0) != (lie == "") {
			t.Errorf("%q: found %q", lie, wrong)
		}
	}
}
