package node

import (
	"time"

	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Known lists every node that orders, status and commands can mean, sorted by ID: those
// of the view, and those that only the newest order names, of which nothing is known but
// ID and class.
func (n *Node) Known() (all []view.Record) {
	for r := range n.view.All() {
		all = append(all, r)
	}
	o := n.newestOrder()
	if o == nil {
		return all
	}
	places := n.newestPlaces()
	for _, class := range sorted(o.Classes) {
		listed := map[bundle.NodeID]bool{}
		for _, id := range o.Classes[class].Roster {
			if _, ok := n.view.Get(id); !ok && places[class][id] > 0 && !listed[id] {
				listed[id] = true
				all = append(all, view.Record{Node: id, Class: class})
			}
		}
	}
	return all
}

// newestPlaces are those of the newest order.
func (n *Node) newestPlaces() schedule.Places {
	if o := n.newestOrder(); o != n.placesOf {
		n.placesOf, n.placesKept = o, o.Places()
	}
	return n.placesKept
}

// Standing tells how a node of Known counts.
func (n *Node) Standing(r view.Record) schedule.Standing {
	return n.standingOf(r, n.newestPlaces().Standing(r, n.Alive(r.Node)))
}

// NameOf is what commands call a node: its name, or where that is not its alone or not
// known, the beginning of its ID.
func (n *Node) NameOf(id bundle.NodeID) string {
	r, ok := n.view.Get(id)
	if !ok || r.Name == "" {
		return id.Short()
	}
	if n.names.of == nil {
		n.names = names{map[bundle.NodeID]string{}, map[string]int{}}
		for r := range n.view.All() {
			n.names.note(r.Node, r.Name)
		}
	}
	if n.names.count[r.Name] > 1 {
		return id.Short()
	}
	return r.Name
}

// names are those that nodes call themselves by, and how many do by each; zero: nobody has
// asked yet. heard tells them what is news.
type names struct {
	of    map[bundle.NodeID]string
	count map[string]int
}

// note takes in what a node calls itself now; "" is nothing.
func (s names) note(id bundle.NodeID, name string) {
	before := s.of[id]
	if s.of == nil || before == name {
		return
	}
	if s.count[before]--; s.count[before] <= 0 {
		delete(s.count, before)
	}
	if delete(s.of, id); name != "" {
		s.of[id] = name
		s.count[name]++
	}
}

// newestOrder is the order in force of the newest release that has one; nil for none.
func (n *Node) newestOrder() *schedule.Order {
	var newest bundle.Version
	for v := range n.docs.orders {
		newest = max(newest, v)
	}
	return n.docs.orders[newest]
}

// progressed is when the rollout of a class under the newest order got on last, as far as this
// node has seen.
type progressed struct {
	behind int // so many nodes were not there yet
	at     time.Time
	looked time.Time
}

// noteProgress looks whether the newest rollout gets on, class by class: the order is new, or
// fewer nodes are behind than before. While a class waits as ordered nothing ought to come: that
// time does not count, and what counted before it still does.
func (n *Node) noteProgress() {
	o := n.newestOrder()
	if o == nil {
		n.newest, n.progressed = nil, nil
		return
	}
	if !n.newest.Of(o) {
		n.newest, n.progressed = schedule.NewTally(o, n.lookup), map[bundle.Class]progressed{}
	}
	n.newest.NoteAll([]bundle.NodeID{n.cfg.Self}, n.lookup)
	in := schedule.Input{Ask: n.ask(o), Now: n.now, Zone: n.cfg.Zone}
	for _, in.Class = range sorted(o.Classes) {
		p, known := n.progressed[in.Class]
		behind := n.newest.Behind(in.Class)
		switch {
		case !known || behind < p.behind:
			p.at = n.now
		case behind == p.behind && n.now.Sub(p.looked).Abs() < progressPause:
			continue
		case !n.newest.Idles(in):
			p.at = p.at.Add(n.now.Sub(p.looked))
		}
		p.behind, p.looked = behind, n.now
		n.progressed[in.Class] = p
	}
}

// Idle is for how long the rollout of a release has not got on in a class though it could, as this
// agent has seen it since it began; 0 for one that is not the newest.
func (n *Node) Idle(release bundle.Version, class bundle.Class) time.Duration {
	p, known := n.progressed[class]
	if o := n.newestOrder(); !known || o == nil || o.Release != release || !n.newest.Of(o) {
		return 0
	}
	return max(0, n.now.Sub(p.at))
}

// Rolling is the release that is on its way, or back: that of the newest rollout order, or
// where this is over, or there is none, the newest that was handed in.
func (n *Node) Rolling() bundle.Version {
	o := n.newestOrder()
	if o == nil || !o.Back() && (o.State == schedule.StateAborted || schedule.Reached(o, n.view.Get)) {
		return n.Head()
	}
	return o.Release
}
