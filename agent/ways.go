package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"moult/simlayer"
	"moult/simlayer/attach"
	"moult/simlayer/connect"
	"moult/store/bundle"
)

// ways are how callers reach the node past the agent, and how its own calls find
// their way. They are chosen when the agent starts.
type ways struct {
	attach map[string]way // by service
	egress way

	steer   *attach.Steer    // nil where no service is steered
	connect *connect.Connect // nil unless egress is by connect
	// unfit are public addresses that the kernel cannot be told of, for they are
	// names; each is said once.
	unfit map[string]bool
}

// way is what was chosen, and why nothing better: "" where it is what was asked
// for, or the best.
type way struct{ kind, why string }

func (w way) String() string {
	if w.why == "" {
		return w.kind
	}
	return w.kind + " (" + w.why + ")"
}

// chooseWays finds what works here. What agent.hcl asks for by name and does not
// work is an error.
func (a *Agent) chooseWays(c *closers) error {
	a.ways = ways{attach: map[string]way{}, unfit: map[string]bool{}}
	steer := steerable()
	for _, name := range slices.Sorted(maps.Keys(a.cfg.Services)) {
		w, err := chooseAttach(a.cfg.Services[name].Attach, steer)
		if err != nil {
			return fmt.Errorf("service %q: %w", name, err)
		}
		a.ways.attach[name] = w
	}
	var err error
	if a.ways.egress, err = chooseEgress(a.cfg.Egress, a.connectable()); err != nil {
		return err
	}
	if err := a.openConnect(c); err != nil {
		return err
	}
	for name, w := range a.ways.attach {
		a.log.Info("callers reach the node", "service", name, "attach", w.kind, "why", w.why)
	}
	a.log.Info("calls of the node find their way", "egress", a.ways.egress.kind, "why", a.ways.egress.why)
	return nil
}

// steerable says why nothing can be steered here; nil where it can.
func steerable() error {
	if _, err := attach.FindBPFFS(); err != nil {
		return err
	}
	return errors.Join(attach.Probe(attach.KindSteer), attach.Probe(attach.KindTake))
}

// inWords is an error on one line.
func inWords(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// connectable says why the kernel cannot rewrite the node's calls here.
func (a *Agent) connectable() error {
	if _, err := attach.FindBPFFS(); err != nil {
		return err
	}
	return connect.Probe(connect.Options{Name: kernelName(a.id)})
}

func chooseAttach(asked string, steerable error) (way, error) {
	switch asked {
	case AttachSteer:
		if steerable != nil {
			return way{}, fmt.Errorf("attach = %q does not work here: %w; %q takes what does", asked, steerable, AttachAuto)
		}
		return way{kind: AttachSteer}, nil
	case AttachInherit:
		// Without taking, the next agent could not have the sockets back.
		if err := errors.Join(attach.Probe(attach.KindInherit), attach.Probe(attach.KindTake)); err != nil {
			return way{}, fmt.Errorf("attach = %q does not work here: %w; %q takes what does", asked, err, AttachAuto)
		}
		return way{kind: AttachInherit}, nil
	case AttachRelay:
		return way{kind: AttachRelay}, nil
	}
	if steerable != nil {
		return way{kind: AttachRelay, why: "steer: " + inWords(steerable)}, nil
	}
	return way{kind: AttachSteer}, nil
}

func chooseEgress(asked string, connectable error) (way, error) {
	switch asked {
	case EgressConnect:
		if connectable != nil {
			return way{}, fmt.Errorf("egress = %q does not work here: %w; %q takes what does", asked, connectable, EgressAuto)
		}
		return way{kind: EgressConnect}, nil
	case EgressProxy, EgressResolve:
		return way{kind: asked}, nil
	}
	if connectable != nil {
		return way{kind: EgressProxy, why: "connect: " + inWords(connectable)}, nil
	}
	return way{kind: EgressConnect}, nil
}

// pins is the folder of this node's own in the BPF file system, for what outlives
// the agent.
func (a *Agent) pins() (string, error) {
	fs, err := attach.FindBPFFS()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(fs, pinFolder(a.id))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make a folder for what outlives the agent in the kernel: %w", err)
	}
	return dir, nil
}

func pinFolder(id bundle.NodeID) string { return "moult_" + kernelName(id) }

// steerFolder is within it.
const steerFolder = "steer"

// kernelName is short, since the names of cgroups and pins are, and the node's own.
func kernelName(id bundle.NodeID) string { return id.String()[:16] }

// openConnect makes the node's cgroup, or takes over that of an earlier agent.
func (a *Agent) openConnect(c *closers) error {
	if a.ways.egress.kind != EgressConnect {
		return nil
	}
	dir, err := a.pins()
	if err == nil {
		a.ways.connect, err = connect.Open(connect.Options{Dir: dir, Name: kernelName(a.id)})
	}
	if err != nil {
		return fmt.Errorf("egress by connect: %w", err)
	}
	c.add(a.ways.connect.Close)
	return nil
}

// openSteer is called once the layer listens: without, callers would be refused.
func (a *Agent) openSteer(c *closers) error {
	for _, w := range a.ways.attach {
		if w.kind != AttachSteer {
			continue
		}
		dir, err := a.pins()
		if err != nil {
			return fmt.Errorf("attach by steer: %w", err)
		}
		s, err := attach.OpenSteer(filepath.Join(dir, steerFolder), attach.Options{Logger: a.log})
		if err != nil {
			return fmt.Errorf("attach by steer: %w", err)
		}
		a.ways.steer = s
		a.layer.SetSteer(s)
		c.add(s.Close)
		return nil
	}
	return nil
}

// steered is the way of a service as it is now, where the kernel or the software
// may have made it fall back.
func (a *Agent) steered(name string) way {
	w := a.ways.attach[name]
	if why := a.layer.Fallen(name); why != "" {
		return way{kind: AttachRelay, why: w.kind + ": " + why}
	}
	return w
}

// redirect tells the kernel where the node's calls of its peers' public addresses
// go, for the version that the software speaks. A peer that does not answer that
// version is not called.
func (a *Agent) redirect() {
	if a.ways.connect == nil || a.speaks == 0 {
		return
	}
	d := a.directory.Load()
	if d == nil {
		return
	}
	t := connect.Table{TCP: map[netip.AddrPort]netip.AddrPort{}, UDP: map[netip.AddrPort]netip.AddrPort{}}
	for public, peer := range *d {
		from, err := netip.ParseAddrPort(public.addr)
		if err != nil {
			if !a.ways.unfit[public.addr] {
				a.ways.unfit[public.addr] = true
				a.alarm("calls to %s are not labelled with this node's version: with egress %q the public addresses of peers must be numbers", public.addr, EgressConnect)
			}
			continue
		}
		to, err := netip.ParseAddrPort(peer.versions[a.speaks])
		if err != nil {
			to = netip.AddrPortFrom(loopbackOf(from.Addr()), refusing)
		}
		table := t.TCP
		if public.udp {
			table = t.UDP
		}
		table[from] = to
	}
	if err := a.ways.connect.Set(t); err != nil {
		a.alarm("the node's calls to its peers may go wrong: %v", err)
	}
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

// attachKind is the layer's word for a way.
func (w way) attachKind() simlayer.Attach {
	switch w.kind {
	case AttachSteer:
		return simlayer.AttachSteer
	case AttachInherit:
		return simlayer.AttachInherit
	}
	return simlayer.AttachRelay
}
