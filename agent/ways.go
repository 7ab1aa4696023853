package agent

import (
	"moult/agent/config"
	"moult/agent/ways"
	"moult/simlayer"
)

// chooseWays finds how callers reach the node, and how its calls find their way.
func (a *Agent) chooseWays(c *closers) error {
	cfg := ways.Config{Node: a.ID, Attach: map[string]string{}, Egress: a.cfg.Egress, Log: a.log}
	if g := a.bounds.Software.InGroup(); g != nil {
		cfg.Cgroup = g.Unified
	}
	for name, s := range a.cfg.Services {
		cfg.Attach[name] = s.Attach
	}
	var err error
	if a.ways, err = ways.Choose(cfg); err != nil {
		return err
	}
	c.add(a.ways.Close)
	return nil
}

// steerTo has callers steered to the node, where that is how they reach it. The layer
// listens by then.
func (a *Agent) steerTo(layer *simlayer.Layer, c *closers) error {
	s, err := a.ways.OpenSteer()
	if s == nil || err != nil {
		return err
	}
	layer.SetSteer(s)
	c.add(s.Close)
	return nil
}

// wayOf is the way of a service as it is now, where the kernel or the software may
// have made it fall back.
func (a *Agent) wayOf(service string) ways.Way {
	w := a.ways.Attach[service]
	if why := a.layer.Fallen(service); why != "" {
		return ways.Way{Kind: config.AttachRelay, Why: w.Kind + ": " + why}
	}
	return w
}

// redirect tells the kernel where the node's calls of its peers' public addresses
// go, for the version that the software speaks. A peer that does not answer that
// version is not called.
func (l *loop) redirect() {
	d := l.directory.Load()
	if d == nil || l.answering.Speaks == 0 {
		return
	}
	unfit, left, err := l.ways.Redirect(func(yield func(ways.Lead) bool) {
		for public, peer := range *d {
			if !yield(ways.Lead{Public: public.Addr, UDP: public.UDP, To: peer.Versions[l.answering.Speaks]}) {
				return
			}
		}
	})
	for _, public := range unfit {
		l.alarm("calls to %s are not labelled with this node's version: with egress %q the public addresses of peers must be IP addresses", public, config.EgressConnect)
	}
	if err != nil {
		l.alarm("the node's calls to its peers may go wrong: %v", err)
	}
	if len(left) > 0 {
		l.alarm("calls to %d addresses that peers publish are not labelled with this node's version, all others are; the first is %v: correct the address in that node's agent.hcl", len(left), left[0])
	}
}
