package speed

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"time"

	"moult/simlayer"
	"moult/simlayer/host"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// role is what a process is to be.
type role struct {
	Kind    string // node, relay, proxy or client
	Backend string // of a relay or a proxy
	Sock    string // a unix socket on which a node listens too
	Inherit bool   // a node has a listening socket at descriptor 3
	Rules   string // text of the rules in a relay's own process
	Dir     string // a relay has an object host, with its files here
	Object  host.Object
	Profile string // the file for a profile of the CPU
}

// order is what a process is told to do.
type order struct {
	Do string // drive, idle, drop, memory or processes

	Addr, Request string
	Conns         int
	For           time.Duration
	Fresh         bool // a connection for each call
}

// reply is what a process says when it is ready, and to each order.
type reply struct {
	Err          string
	Public, Past string // addresses for callers of the node's version, and of the one before
	Processes    []int
	Bytes        int
	Calls        int
	Seconds      float64
	P50          float64 // in µs
}

// server carries out orders.
type server func(order) (reply, error)

// play is a process: it begins, says so, and carries out orders until its input
// ends.
func play(text string) int {
	var r role
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if r.Profile != "" {
		f, err := os.Create(r.Profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "profile:", err)
			return 1
		}
		defer func() { pprof.StopCPUProfile(); f.Close() }()
	}
	out := json.NewEncoder(os.Stdout)
	say := func(what reply, err error) bool {
		if err != nil {
			what.Err = err.Error()
		}
		return out.Encode(what) == nil && err == nil
	}
	first, serve, end, err := r.begin()
	if end != nil {
		defer end()
	}
	if !say(first, err) {
		return 1
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var o order
		err := json.Unmarshal(in.Bytes(), &o)
		var what reply
		if err == nil {
			what, err = serve(o)
		}
		say(what, err)
	}
	return 0
}

func (r role) begin() (first reply, serve server, end func(), err error) {
	nothing := func(order) (reply, error) { return reply{}, errors.New("this one takes no orders") }
	switch r.Kind {
	case "node":
		first, err = r.node()
		return first, nothing, nil, err
	case "proxy":
		first, err = r.proxy()
		return first, nothing, nil, err
	case "relay":
		return r.relay()
	case "client":
		c := &client{}
		return first, c.serve, c.drop, nil
	}
	return first, nothing, nil, fmt.Errorf("no role %q", r.Kind)
}

// listenTCP binds a free port, without multipath TCP, which cannot be steered to.
func listenTCP() (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
}

// node is software of version 2: GET gives a body of the size that the path says,
// PUT what it got.
func (r role) node() (reply, error) {
	bodies := map[string][]byte{}
	for _, size := range []int{small, large} {
		bodies["/"+strconv.Itoa(size)] = bytes.Repeat([]byte("x"), size)
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, kind := bodies[r.URL.Path], "text/plain"
		if r.Method == "PUT" {
			kind = "application/json"
			body = make([]byte, r.ContentLength)
			if _, err := io.ReadFull(r.Body, body); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	})
	own, err := listenTCP()
	if err != nil {
		return reply{}, err
	}
	all := []net.Listener{own}
	if r.Sock != "" {
		ln, err := net.Listen("unix", r.Sock)
		if err != nil {
			return reply{}, err
		}
		all = append(all, ln)
	}
	if r.Inherit {
		ln, err := net.FileListener(os.NewFile(3, "inherited"))
		if err != nil {
			return reply{}, err
		}
		all = append(all, ln)
	}
	for _, ln := range all {
		go func() { _ = http.Serve(ln, h) }()
	}
	return reply{Public: own.Addr().String()}, nil
}

// proxy is net/http's own, with connections enough to the node.
func (r role) proxy() (reply, error) {
	p := &httputil.ReverseProxy{
		Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(&url.URL{Scheme: "http", Host: r.Backend}) },
		Transport: &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, DisableCompression: true},
	}
	ln, err := listenTCP()
	if err != nil {
		return reply{}, err
	}
	go func() { _ = http.Serve(ln, p) }()
	return reply{Public: ln.Addr().String()}, nil
}

// relay is an agent's layer, and perhaps its object host.
func (r role) relay() (first reply, serve server, end func(), err error) {
	var h *host.Host
	end = func() {
		if h != nil {
			_ = h.Close()
		}
	}
	routing := simlayer.Routing{Native: 2, Backends: map[string]string{"api": r.Backend}}
	switch {
	case r.Dir != "":
		var addrs map[string]string
		if h, addrs, err = r.host(); err != nil {
			return first, nil, end, err
		}
		routing.Objects = map[bundle.Version]simlayer.Object{1: {Addrs: addrs}}
	case r.Rules != "":
		rules, err := so.ParseRules([]byte(r.Rules), "speed.hcl")
		if err != nil {
			return first, nil, end, err
		}
		if !rules.Bounded() {
			return first, nil, end, fmt.Errorf("these rules have no bounded form: %v", rules.Unbounded())
		}
		routing.Objects = simlayer.InProcess(map[bundle.Version]so.Object{1: rules})
	}
	l, err := simlayer.Start(simlayer.Config{Services: map[string]simlayer.Service{"api": {Public: "127.0.0.1:0", Protocol: bundle.ProtocolHTTP}}})
	if err == nil {
		err = l.Apply(routing)
	}
	if err != nil {
		return first, nil, end, err
	}
	at := l.Addresses()["api"]
	serve = func(o order) (reply, error) {
		if o.Do == "processes" {
			return objectHosts(h)
		}
		runtime.GC()
		runtime.GC() // pools are emptied by the second
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return reply{Bytes: int(m.HeapInuse + m.StackInuse)}, nil
	}
	return reply{Public: at.Public, Past: at.Versions[1]}, serve, end, nil
}

// host runs the object for callers of version 1.
func (r role) host() (*host.Host, map[string]string, error) {
	h, err := host.Start(host.Config{Dir: r.Dir, Cache: r.Dir + "/cache", Services: []host.Service{{Name: "api", Protocol: bundle.ProtocolHTTP}}})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = h.Set(ctx, host.Objects{Native: 2, Node: map[string]string{"api": r.Backend}, List: []host.Object{r.Object}})
	return h, h.Addrs(1), err
}

// objectHosts waits until the objects run, and returns their processes.
func objectHosts(h *host.Host) (what reply, err error) {
	if h == nil {
		return what, nil
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		s := h.Stats()[0]
		if s.PID != 0 && s.Problem == "" {
			return reply{Processes: []int{s.PID}}, nil
		}
		if time.Now().After(end) {
			return what, fmt.Errorf("the object for version %d does not run (%v): %s", s.Version, s.State, s.Problem)
		}
	}
}
