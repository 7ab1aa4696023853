package ways

import (
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"moult/agent/config"
	"moult/simlayer/attach"
	"moult/simlayer/connect"
	"moult/store/bundle"
)

// Config says for which node ways are chosen, and what is asked for.
type Config struct {
	Node   bundle.NodeID
	Attach map[string]string // by service, one of the Attach words
	Egress string            // one of the Egress words
	Cgroup string            // below which the node's is made; "" for where all are
	Log    *slog.Logger
}

// Ways are those of one node. They do not change as long as its agent runs. One
// goroutine at a time may call the methods.
type Ways struct {
	Attach map[string]Way // by service: how callers reach it
	Egress Way            // how the node's calls find their way

	node    bundle.NodeID
	log     *slog.Logger
	connect *connect.Connect // nil unless egress is by connect
	// unfit are public addresses that the kernel cannot be told of, for they are
	// names; each is said once.
	unfit map[string]bool
}

// Choose finds what works here, and makes the node's cgroup where it is needed, or
// takes over that of an earlier agent. What is asked for by name and does not work is
// an error.
func Choose(cfg Config) (*Ways, error) {
	w := &Ways{node: cfg.Node, log: cfg.Log, Attach: map[string]Way{}, unfit: map[string]bool{}}
	steer := steerable()
	var err error
	for _, name := range slices.Sorted(maps.Keys(cfg.Attach)) {
		if w.Attach[name], err = chooseAttach(cfg.Attach[name], steer); err != nil {
			return nil, fmt.Errorf("service %q: %w", name, err)
		}
	}
	if w.Egress, err = chooseEgress(cfg.Egress, connectable(cfg.Node)); err != nil {
		return nil, err
	}
	if w.Egress.Kind == config.EgressConnect {
		dir, err := makePins(cfg.Node)
		if err == nil {
			w.connect, err = connect.Open(connect.Options{Dir: dir, Name: KernelName(cfg.Node), Cgroup: cfg.Cgroup})
		}
		if err != nil {
			return nil, fmt.Errorf("egress by connect: %w", err)
		}
	}
	for name, way := range w.Attach {
		cfg.Log.Info("callers reach the node", "service", name, "attach", way.Kind, "why", way.Why)
	}
	cfg.Log.Info("calls of the node find their way", "egress", w.Egress.Kind, "why", w.Egress.Why)
	return w, nil
}

// Connect has the node's cgroup; nil unless egress is by connect. It is w's, which
// closes it.
func (w *Ways) Connect() *connect.Connect { return w.connect }

// Close lets go of what w holds of the kernel, which stays there.
func (w *Ways) Close() error {
	if w.connect == nil {
		return nil
	}
	return w.connect.Close()
}

// OpenSteer opens what steers callers to the node; nil where no service is steered.
// The caller closes it. It is for when the layer listens: before, callers would be
// refused.
func (w *Ways) OpenSteer() (*attach.Steer, error) {
	for _, way := range w.Attach {
		if way.Kind != config.AttachSteer {
			continue
		}
		dir, err := makePins(w.node)
		if err != nil {
			return nil, fmt.Errorf("attach by steer: %w", err)
		}
		s, err := attach.OpenSteer(filepath.Join(dir, steerFolder), attach.Options{Logger: w.log})
		if err != nil {
			return nil, fmt.Errorf("attach by steer: %w", err)
		}
		return s, nil
	}
	return nil, nil
}

// Lead says where calls of a public address go.
type Lead struct {
	Public string // host:port
	UDP    bool
	To     string // "" or no address: nowhere, the call is refused
}

// Redirect tells the kernel where the node's calls of its peers' public addresses go,
// where that is how they find their way. It returns those public addresses that the
// kernel cannot be told of, for they are names, each once in the life of w, and what
// else it does not go by. All other leads are in force.
func (w *Ways) Redirect(leads iter.Seq[Lead]) (unfit []string, left []connect.LeftOut, err error) {
	if w.connect == nil {
		return nil, nil, nil
	}
	t := connect.Table{TCP: map[netip.AddrPort]netip.AddrPort{}, UDP: map[netip.AddrPort]netip.AddrPort{}}
	for l := range leads {
		from, err := netip.ParseAddrPort(l.Public)
		if err != nil {
			if !w.unfit[l.Public] {
				w.unfit[l.Public] = true
				unfit = append(unfit, l.Public)
			}
			continue
		}
		to, err := netip.ParseAddrPort(l.To)
		if err != nil {
			to = netip.AddrPortFrom(loopbackOf(from.Addr()), refusing)
		}
		table := t.TCP
		if l.UDP {
			table = t.UDP
		}
		table[from] = to
	}
	left, err = w.connect.Set(t)
	return unfit, left, err
}

// refusing is a port of the loopback interface at which nobody listens (tcpmux of
// RFC 1078, which was never used): callers are refused.
const refusing = 1

func loopbackOf(ip netip.Addr) netip.Addr {
	if ip.Unmap().Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// makePins returns the folder of the node's own in the BPF file system, for what
// outlives the agent.
func makePins(node bundle.NodeID) (string, error) {
	fs, err := attach.FindBPFFS()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(fs, pinFolder(node))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make a folder for what outlives the agent in the kernel: %w", err)
	}
	return dir, nil
}
