package speed

import (
	"fmt"
	"strings"
)

// goal is what was aimed at, and what came out.
type goal struct {
	goal, figure string
	met          bool
	unknown      bool // it was not measured
}

func (g goal) verdict() string {
	switch {
	case g.unknown:
		return "not measured"
	case g.met:
		return "met"
	}
	return "missed"
}

// goals compares the figures with what was aimed at.
func (r *report) goals() []goal {
	var all []goal
	for _, way := range []string{wayInherit, waySteer, wayConnect} {
		all = append(all, r.free(way))
	}
	for _, way := range []string{wayRelayUnix, wayRelayTCP} {
		all = append(all, r.against(way, small, 0.85), r.against(way, large, 1))
	}
	cpu := r.same.of(wayRelayUnix, wayDirect, 1, cpuOf)
	all = append(all, goal{
		goal:   fmt.Sprintf("`relay` by unix socket takes at most 2.4 × direct's CPU, %s", r.same.shapes[1].name),
		figure: fmt.Sprintf("%.2f", cpu), met: cpu <= 2.4})
	for i, s := range r.changed.shapes {
		share := r.changed.of(wayRules, wayRelayUnix, i, rpsOf)
		all = append(all, goal{
			goal:   fmt.Sprintf("`rules` answer at least 0.75 × the calls of a relay that changes nothing, %s", s.name),
			figure: fmt.Sprintf("%.2f", share), met: share >= 0.75})
	}
	busiest := len(r.changed.shapes) - 1
	guest := goal{goal: fmt.Sprintf("a guest in C answers at least the calls of ReverseProxy without a rule, %s", r.changed.shapes[busiest].name)}
	if guest.unknown = r.changed.cells[wayHostC] == nil; !guest.unknown {
		times := r.changed.of(wayHostC, wayProxy, busiest, rpsOf)
		guest.figure, guest.met = fmt.Sprintf("%.2f", times), times >= 1
	}
	all = append(all, guest)
	own := r.own(mapRules) / 2
	all = append(all, goal{goal: "a mapping takes at most 10 µs", figure: fmt.Sprintf("%.1f µs", own), met: own <= 10})
	c := r.own(mapC) / r.own(mapRules)
	all = append(all, goal{goal: "the small guest costs at most 2 × `rules`, by itself", figure: fmt.Sprintf("%.2f", c), met: c <= 2, unknown: c <= 0})
	for i, s := range r.changed.shapes {
		g := goal{goal: fmt.Sprintf("the same as a whole call in the object host, CPU of the servers, %s", s.name)}
		if g.unknown = r.changed.cells[wayHostC] == nil; !g.unknown {
			times := r.changed.of(wayHostC, wayHostRules, i, cpuOf)
			g.figure, g.met = fmt.Sprintf("%.2f", times), times <= 2
		}
		all = append(all, g)
	}
	kib := float64(r.idle) / 1024
	return append(all, goal{goal: "an idle relayed connection takes at most 16 KiB", figure: fmt.Sprintf("%.1f KiB", kib), met: kib <= 16})
}

func rpsOf(c *cell) []float64 { return c.rps }
func cpuOf(c *cell) []float64 { return c.cpu }

// of is what one way has of another, in the median of the rounds.
func (b *block) of(way, other string, i int, what func(*cell) []float64) float64 {
	return median(ratios(what(b.cells[way][i]), what(b.cells[other][i])))
}

// free: nothing of a way may differ from direct calls by more than these do among
// themselves. Only the loads that the goal names count.
func (r *report) free(way string) goal {
	g := goal{goal: way + " is as good as direct, within the noise", met: true}
	if r.same.cells[way] == nil {
		g.unknown = true
		return g
	}
	worst := 0.0
	for i, s := range r.same.shapes {
		if s.fresh {
			continue
		}
		for _, m := range measures {
			low, high := spread(ratios(m.of(r.same.cells[wayAgain][i]), m.of(r.same.cells[wayDirect][i])))
			got := r.same.of(way, wayDirect, i, m.of)
			cost, within := got, got <= high
			if m.more {
				cost, within = 1/got, got >= low
			}
			g.met = g.met && within
			if cost > worst {
				worst = cost
				g.figure = fmt.Sprintf("at worst %.2f, noise %.2f–%.2f (%s; %s)", got, low, high, m.title, s.name)
			}
		}
	}
	return g
}

// against: of bodies of a size, a way answers at least a share of the calls that HAProxy
// and nginx answer by the same kind of socket to the node, unless it surely does not.
// They are compared round by round, so the noise of direct calls is no excuse.
func (r *report) against(way string, size int, share float64) goal {
	g := goal{met: true, unknown: true}
	least := 0.0
	for i, s := range r.same.shapes {
		if s.fresh || s.size != size {
			continue
		}
		body, _, _ := strings.Cut(s.name, ",")
		g.goal = fmt.Sprintf("%s: at least %.2f × the calls of HAProxy and nginx, %s", way, share, body)
		for _, other := range []string{wayHAProxy, wayHAProxySplice, wayHAProxyUnix, wayNginx, wayNginxUnix} {
			if r.same.cells[other] == nil || (other == wayHAProxyUnix || other == wayNginxUnix) != (way == wayRelayUnix) {
				continue
			}
			g.unknown = false
			low, high := surely(ratios(r.same.cells[way][i].rps, r.same.cells[other][i].rps))
			g.met = g.met && high >= share
			if got := r.same.of(way, other, i, rpsOf); least == 0 || got < least {
				least = got
				g.figure = fmt.Sprintf("at worst %.2f (%.2f–%.2f) × the calls of %s (%s)", got, low, high, other, s.name)
			}
		}
	}
	return g
}
