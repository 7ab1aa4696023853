package node

import (
	"fmt"
	"time"

	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// health is how the software fares, as whoever keeps it up tells.
type health struct {
	version bundle.Version // of the software; 0: nothing was heard of it yet
	passes  bool           // it is up, and nothing is wrong now
	since   time.Time      // since when, if so
	// ailed is what was wrong with it last, for reason; "" for nothing yet.
	ailed  view.HealthState
	reason string
}

// soaking is a soak under way: for how long the software of a release has been well.
type soaking struct {
	release bundle.Version
	since   time.Time
}

// passes notes that software is up and that its checks pass.
func (n *Node) passes(v bundle.Version) {
	h := n.healthOf(v)
	if !h.passes {
		h.passes, h.since = true, n.now
	}
}

// ails notes what is wrong with software. In its soak that is a failure.
func (n *Node) ails(v bundle.Version, state view.HealthState, reason string) {
	h := n.healthOf(v)
	if said, _ := h.says(n.now); said != state {
		h.reason = reason // else it stays: another text for one thing would be a record from every node
	}
	h.passes, h.ailed = false, state
	if s := n.machine.State(); v == s.Running && n.soaks(s) {
		n.answers = append(n.answers, upgrade.SoakFailed{Release: s.Version, Places: n.places(s.Version)})
		n.takeAnswers()
	}
}

// healthOf is what is known of the software of a version: what was known of another
// is forgotten.
func (n *Node) healthOf(v bundle.Version) *health {
	if n.health.version != v {
		n.health = health{version: v}
	}
	return &n.health
}

// says tells how the software fares. What was wrong counts until it has been well for
// some time: software that ends again and again is up in between.
func (h health) says(now time.Time) (view.HealthState, string) {
	switch {
	case h.ailed != "" && !(h.passes && now.Sub(h.since) >= steadyAfter):
		return h.ailed, h.reason
	case h.passes:
		return view.HealthWell, ""
	}
	return view.HealthUnknown, ""
}

// healthSaid is what the record says of it. While the node is down on purpose, and
// while it is probed, there is nothing to say.
func (n *Node) healthSaid(s upgrade.State) view.Health {
	h := view.Health{Soaked: s.Soaked, Failed: view.Ended{Release: s.FailedRelease, Count: s.FailedCount}}
	switch {
	case s.Running == 0:
	case s.Phase.Down() || s.Phase == upgrade.Probing || n.health.version != s.Running:
		h.State = view.HealthUnknown
	default:
		h.State, h.Reason = n.health.says(n.now)
	}
	return h
}

// noteHealth raises an alarm as long as the software is not well.
func (n *Node) noteHealth() {
	text := ""
	if h := n.healthSaid(n.saved); h.Unwell() {
		text = fmt.Sprintf("the software of version %d is %s: %s; its output is in log/node.log of the data folder", n.saved.Running, h.State, h.Reason)
	}
	n.alarm(causeHealth, text)
}

// soak notes when a settled node has been well for as long as its soak lasts: others
// may follow only then. The soak begins anew when the agent is started, when the
// software was not well, and when the order gives a node whose soak has failed
// another place.
func (n *Node) soak() {
	s := n.machine.State()
	if state, _ := n.health.says(n.now); !n.soaks(s) || n.health.version != s.Running || state != view.HealthWell {
		n.soaking = soaking{}
		return
	}
	if n.soaking.release != s.Version {
		n.soaking = soaking{s.Version, n.now}
	}
	if n.now.Sub(n.soaking.since) >= time.Duration(n.soakOf(s.Version)) {
		n.step(upgrade.Soaked{Release: s.Version})
	}
}

// soakOf is how long the soak of a release lasts, of which there is an order.
func (n *Node) soakOf(v bundle.Version) bundle.Duration {
	c := n.docs.orders[v].Classes[n.cfg.Class]
	return c.SoakOf(n.cfg.Self)
}

// soaks reports whether the node is in the soak of the release at which it has settled;
// one that lasts for no time passes when it is well.
func (n *Node) soaks(s upgrade.State) bool {
	if n.docs.orders[s.Version] == nil || s.Soaked >= s.Version || s.Running == 0 || s.Running > s.Version || s.Reverts != 0 || s.Phase.Down() {
		return false
	}
	places := n.places(s.Version)
	return places == 0 || !s.FailedSoak(places)
}

// places counts those that the order of a release has for this node.
func (n *Node) places(v bundle.Version) int {
	if o := n.docs.orders[v]; o != nil {
		return o.Attempts(n.cfg.Class, n.cfg.Self)
	}
	return 0
}
