package software

import (
	"context"
	"log/slog"
	"net/url"
	"os"
	"sync"

	"moult/agent/account"
	"moult/agent/account/bounds"
	"moult/agent/process"
	"moult/simlayer"
	"moult/simlayer/connect"
	"moult/store/bundle"
)

// Config says what to look after and for whom. All fields but Env, Connect and Account
// must be set.
type Config struct {
	Data string        // the data folder
	Node bundle.NodeID // marks the software among all that runs on the machine
	// KernelName is the node's own in the names of what is made in the kernel.
	KernelName string
	// Services are the configured ones, each with the address that its callers know.
	Services map[string]string
	Env      map[string]string // what the operator has set for the software, of the form of package placeholder
	Proxied  bool              // the software's calls go by the layer's egress proxy
	Layer    Layer
	Connect  Connect // nil unless the kernel rewrites the software's calls

	// State is the state folder of a version.
	State func(bundle.Version) string
	// Unpacked returns the folder of an artifact, verified.
	Unpacked func(context.Context, bundle.Digest) (dir string, err error)
	// Account is whose the software and its checks are; nil: the agent's. Own gives it
	// the state of a version. Former are users whose it may have been before.
	Account *account.Account
	Former  []int
	Bounds  *bounds.Bounds // what they are held to; nil: nothing
	Own     func(bundle.Version) error
	// Plan says how a version is started.
	Plan func(bundle.Version) (Plan, error)
	// Tell takes in what happens, in order of happening, and returns when it was
	// acted on; an error where nobody listens any more. Plan and Tell must not wait
	// for a method of the Software.
	Tell func(Event) error

	Log *slog.Logger
}

// Layer is the simulation layer, as far as the software needs it.
type Layer interface {
	Sockets(bundle.Version) ([]simlayer.Socket, error)
	Lends(service string, v bundle.Version) bool
	Found(v bundle.Version, told map[string]string) map[string]string
	Aside(service string, v bundle.Version, private string) (addr string, err error)
	Unbound(error)
	EgressURL() *url.URL
	EgressEnvironment() map[string]string
	Finish(context.Context) (cut int, err error)
	Drain(context.Context) (inFlight int, err error)
	Ended()
}

// Connect has the kernel rewrite the calls of processes, which are in its cgroup.
type Connect interface {
	Add(pid int) error
	Cgroup() *os.File
}

// Software starts, adopts, watches and stops the software of one node.
type Software struct {
	cfg Config

	keeping sync.Mutex
	keeper  *keeper // guarded by keeping

	mu     sync.Mutex // held while software is started or stopped; guards:
	record record
	proc   *process.Process // nil: not running, or not known to run
	binder *connect.Binder  // nil before there is need of it
}

// New looks after the software that an earlier agent has left, and what follows it.
// It starts nothing, and leaves alone what runs.
func New(cfg Config, left Left) *Software { return &Software{cfg: cfg, record: left.record} }

// PID returns the process ID of the software; 0 where none runs.
func (s *Software) PID() int {
	if !s.mu.TryLock() {
		return 0 // it is being started or stopped
	}
	defer s.mu.Unlock()
	if s.proc == nil || ended(s.proc) {
		return 0
	}
	return s.record.Handle.PID
}

func ended(p *process.Process) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}
