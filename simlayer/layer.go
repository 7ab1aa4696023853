package simlayer

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"moult/simlayer/attach"
	"moult/simlayer/calls"
	"moult/simlayer/egress"
	"moult/simlayer/gate"
	"moult/simlayer/observe"
	"moult/simlayer/packets"
	"moult/simlayer/routes"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

// Layer is the simulation layer of one node. It is safe for concurrent use.
type Layer struct {
	cfg   Config
	log   *slog.Logger
	gate  *gate.Gate[*routes.Route]
	calls *calls.Calls
	out   *egress.Proxy // nil without one

	// ctx ends with Close.
	ctx    context.Context
	stop   context.CancelFunc
	closer sync.Once
	// leaving: the next layer takes the listening sockets over.
	leaving atomic.Bool
	tasks   stream.Tasks
	conns   *stream.Quota // that are open

	services map[string]*service // fixed

	// apply is held by Apply, and by Close once it has begun.
	apply  sync.Mutex
	closed bool
	steer  *attach.Steer             // apply; nil where nothing is steered
	taken  map[string]taken          // apply; the software's own sockets, by service
	asides map[string]*packets.Aside // apply; by service
	strays []stray                   // apply; sockets that software left behind
	// given is the version of the software that runs with sockets of ours; 0 where
	// none does. known are those that the software of an earlier layer has.
	given bundle.Version // apply
	// orphan is the routing under which the software has ended, until there is
	// another or software again: datagrams wait, as nothing tells that they are lost.
	orphan  atomic.Pointer[routes.Route]
	known   []Inherited // apply
	unbound error       // apply; why software cannot open its sockets of UDP beside ours

	// observers are those of the routing in force, by path, and observed are the
	// paths of all that there were.
	observers map[string]*observe.Observer // apply
	observed  map[string]bool              // apply

	senders    packets.Senders
	answerTime time.Duration // the constant, but for tests
	draining   sync.Mutex    // held by whoever waits for calls to end

	fallen sync.Map // service to why its callers are relayed although they need not be

	// mu guards versioned of every service.
	mu sync.Mutex
}

// service is one service with its listeners.
type service struct {
	Service
	name      string
	public    *listener
	versioned map[bundle.Version]*listener
	tally     tally.ByVersion
}

// Addresses are where one service is reached.
type Addresses struct {
	Public   string
	Versions map[bundle.Version]string
}

func (l *Layer) has(s *service, v bundle.Version) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.versioned[v] != nil
}

// lent reports whether running software has the other socket of a listener's pair.
func (l *Layer) lent(f *listener) bool { return f.pair != nil && f.Label == l.given }

// own returns the addresses that the layer listens on.
func (l *Layer) own() []net.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	var addrs []net.Addr
	for _, s := range l.services {
		addrs = append(addrs, s.public.Addr())
		for _, f := range s.versioned {
			addrs = append(addrs, f.Addr())
		}
	}
	if l.out != nil {
		addrs = append(addrs, l.out.Addr())
	}
	return addrs
}

// Addresses returns where each service is reached now.
func (l *Layer) Addresses() map[string]Addresses {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]Addresses, len(l.services))
	for name, s := range l.services {
		a := Addresses{Public: s.public.Addr().String(), Versions: map[bundle.Version]string{}}
		if _, port, _ := stream.SplitAddr(s.Public); port != 0 {
			a.Public = s.Public
		}
		for v, f := range s.versioned {
			at, _ := stream.AddrPort(f.Addr())
			a.Versions[v] = net.JoinHostPort(s.host(), fmt.Sprint(at.Port()))
		}
		out[name] = a
	}
	return out
}

// EgressURL returns the URL of the HTTP proxy for the node's own calls, with the
// credentials that it wants, or nil without one.
func (l *Layer) EgressURL() *url.URL {
	if l.out == nil {
		return nil
	}
	return l.out.URL("http")
}

// EgressEnvironment returns the environment that has programs call by the egress
// proxy, as egress.Proxy has it. It is empty without a proxy.
func (l *Layer) EgressEnvironment() map[string]string {
	if l.out == nil {
		return nil
	}
	return l.out.Environment()
}

// label is the version of the node's own calls, and how long they may wait.
func (l *Layer) label() (bundle.Version, time.Duration) {
	r := l.gate.Routing()
	return r.Egress, r.Hold
}

// listeners returns all, in no order.
func (l *Layer) listeners() []*listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*listener
	for _, s := range l.services {
		if s.public != nil {
			all = append(all, s.public)
		}
		for _, f := range s.versioned {
			all = append(all, f)
		}
	}
	return all
}

// versionedOf returns the listener for callers of a version; nil without one.
func (l *Layer) versionedOf(s *service, v bundle.Version) *listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.versioned[v]
}

// taken is the socket on which software listens by itself.
type taken struct {
	file      *os.File
	processes []int
	addr      string
}

// stray takes what is queued at a socket whose software has ended.
type stray struct {
	io.Closer
	at        *listener // serves it
	inherited bool      // the socket is one of at's pair; else it was the software's own
}
