package speed

import (
	"math"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	small = 128
	large = 64 << 10
)

// Ways of calls that nobody changes.
const (
	wayDirect        = "direct"
	wayAgain         = "direct again (the noise)"
	wayInherit       = "`inherit`"
	waySteer         = "`steer`"
	wayConnect       = "`connect`"
	wayRelayUnix     = "`relay`, unix socket to the node"
	wayRelayTCP      = "`relay`, TCP to the node"
	wayHAProxy       = "HAProxy, TCP"
	wayHAProxySplice = "HAProxy, TCP, splice-auto"
	wayHAProxyUnix   = "HAProxy, unix socket"
	wayNginx         = "nginx stream, TCP"
	wayNginxUnix     = "nginx stream, unix socket"
	wayProxy         = "httputil.ReverseProxy, no rule"
)

// Ways of calls that are changed.
const (
	wayRules       = "`rules`, bounded, in the agent"
	wayHostRules   = "`rules`, bounded, in the object host"
	wayHostGeneral = "`rules`, general jq, in the object host"
	wayHostC       = "`wasm`, guest in C"
	wayHostScan    = "`wasm`, guest in Go that scans"
	wayHostGo      = "`wasm`, guest in Go with encoding/json"
)

// Objects by themselves.
const (
	mapNone    = "nothing (`compatible`)"
	mapRules   = "`rules`, bounded"
	mapGeneral = "`rules`, general jq"
	mapC       = "`wasm`, C"
	mapScan    = "`wasm`, Go that scans"
	mapGo      = "`wasm`, Go with encoding/json"
)

// shape is a kind of load.
type shape struct {
	name  string
	size  int // of the body of an answer to GET; 0 is PUT of 1 KiB of JSON
	conns int
	fresh bool // a connection for each call
}

var (
	getShapes = []shape{
		{name: "128 B, 1 conn.", size: small, conns: 1},
		{name: "128 B, 32 conns.", size: small, conns: 32},
		{name: "64 KiB, 1 conn.", size: large, conns: 1},
		{name: "64 KiB, 32 conns.", size: large, conns: 32},
		{name: "128 B, 1 conn. per call", size: small, conns: 1, fresh: true},
	}
	putShapes = []shape{
		{name: "1 KiB of JSON, 1 conn.", conns: 1},
		{name: "1 KiB of JSON, 32 conns.", conns: 32},
	}
)

// cell is what the rounds gave of one way under one load.
type cell struct {
	rps []float64 // calls a second
	cpu []float64 // of the servers together, in µs for a call
	p50 []float64 // in µs
}

// block is a part of the table: ways by loads.
type block struct {
	ways   []string
	shapes []shape
	cells  map[string][]*cell // by way; by load, in order
}

// run measures all ways in turns.
func (r *rig) run(ways []*way, shapes []shape) *block {
	b := &block{shapes: shapes, cells: map[string][]*cell{}}
	for _, w := range ways {
		b.ways = append(b.ways, w.name)
		for range shapes {
			b.cells[w.name] = append(b.cells[w.name], &cell{})
		}
	}
	for round := -1; round < r.o.rounds; round++ {
		for i, s := range shapes {
			for n := range ways {
				w := ways[(n+max(round, 0))%len(ways)] // nobody is always first
				if round < 0 {
					r.measure(w, s, r.o.cell/4, &cell{}) // so that all are warm
				} else {
					r.measure(w, s, r.o.cell, b.cells[w.name][i])
				}
			}
		}
	}
	return b
}

func (r *rig) measure(w *way, s shape, d time.Duration, into *cell) {
	o := order{Do: "drive", Addr: w.addr, Conns: s.conns, For: d, Fresh: s.fresh}
	if s.size > 0 {
		o.Request = get(s.size)
	} else {
		o.Request = put(w.put, w.field)
	}
	cpu := func() (sum time.Duration) {
		for _, pid := range append([]int{r.node.pid}, w.pids...) {
			sum += cpuTime(r.t, pid)
		}
		return sum
	}
	before := cpu()
	got := w.client.ask(o)
	used := cpu() - before
	into.rps = append(into.rps, float64(got.Calls)/got.Seconds)
	into.cpu = append(into.cpu, used.Seconds()*1e6/float64(got.Calls))
	into.p50 = append(into.p50, got.P50)
}

// idle measures what each of n idle connections costs the relay, in bytes.
func (r *rig) idle(n int) (bytes, conns int) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		r.t.Fatal(err)
	}
	n = min(n, int(limit.Max)/2-200)
	before := r.relay.ask(order{Do: "memory"}).Bytes
	r.client.ask(order{Do: "idle", Addr: r.relay.Public, Conns: n, Request: get(small)})
	after := r.relay.ask(order{Do: "memory"}).Bytes
	r.client.ask(order{Do: "drop"})
	return (after - before) / n, n
}

// cpuTime is the CPU time that a process has used, with all its threads.
func cpuTime(t testing.TB, pid int) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|2, &ts); err != nil {
		t.Fatalf("the CPU time of process %d: %v", pid, err)
	}
	return time.Duration(ts.Nano())
}

// ratios are those of the rounds.
func ratios(a, b []float64) []float64 {
	var all []float64
	for i := range min(len(a), len(b)) {
		all = append(all, a[i]/b[i])
	}
	return all
}

// median of nothing is 0.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// spread is where nine tenths of v are above, and nine tenths below. Single rounds
// go that far; a median of as many hardly does.
func spread(v []float64) (low, high float64) {
	v = slices.Sorted(slices.Values(v))
	n := (len(v) - 1) / 10
	return v[n], v[len(v)-1-n]
}

// surely is where the true median of v is, by 19 chances in 20 or more: the sign test,
// which asks nothing of how v is spread. Of a few it is all of them.
func surely(v []float64) (low, high float64) {
	v = slices.Sorted(slices.Values(v))
	all := float64(len(v))
	n := max(0, int((all-1.96*math.Sqrt(all))/2)-1)
	return v[n], v[len(v)-1-n]
}
