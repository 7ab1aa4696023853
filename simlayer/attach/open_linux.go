package attach

import (
	"context"
	"fmt"
	"net/netip"
	"os"
)

// ListenOpen is ListenPair for software that opens the node's socket by itself, with
// SO_REUSEPORT, later: the Pair has only the agent's. What is for the node goes to the
// agent for as long as there is no other, and again when it is closed.
func ListenOpen(ctx context.Context, network, addr string) (*Pair, error) {
	p, err := listenOpen(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s for the agent: %w", addr, err)
	}
	return p, nil
}

func listenOpen(ctx context.Context, network, addr string) (*Pair, error) {
	p, s, err := listenAgent(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	p.open = true
	if err := members(s, 1); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// AdoptOpen is ListenOpen for an agent that comes back while the software runs on,
// with the agent's socket of before, which the software has held (Pair.Hold). New
// connections go where they went before. The file stays the caller's.
func AdoptOpen(ctx context.Context, addr string, agent *os.File) (*Pair, error) {
	s, err := inspectFile(agent)
	if err == nil {
		err = adoptable(s, addr)
	}
	p := &Pair{addr: s.local, network: s.network(), agentIndex: 0, nodeIndex: 1, open: true}
	if err == nil {
		p.agent, err = memberOf(agent)
	}
	if err != nil {
		return nil, fmt.Errorf("take the agent's socket of %s back: %w", addr, err)
	}
	return p, nil
}

// Open says that the software opens the node's socket by itself.
func (p *Pair) Open() bool { return p.open }

// Joined says whether there is a socket of the node's now. It reads a list of the
// kernel's, which takes the longer the more sockets the machine has.
func (p *Pair) Joined() (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.node != nil {
		return true, nil
	}
	s, err := inspectFile(p.agent)
	if err != nil {
		return false, fmt.Errorf("is there a socket of the node's at %s: %w", p.addr, err)
	}
	n, err := socketsAt(s)
	if err != nil {
		return false, fmt.Errorf("is there a socket of the node's at %s: %w", p.addr, err)
	}
	return n > 1, nil
}

// TakeOther is Take for a socket that has exactly an address, but not this number
// (SO_COOKIE), which is that of the agent's own.
func TakeOther(pids []int, network string, addr netip.AddrPort, not uint64) (*os.File, error) {
	f, err := takeWhere(pids, network, addr, func(fd int, fit int) bool {
		number, err := cookie(fd)
		return err == nil && number != not && fit == exactFit
	})
	if err != nil {
		return nil, fmt.Errorf("take the software's socket of %s %s: %w", network, addr, err)
	}
	return f, nil
}
