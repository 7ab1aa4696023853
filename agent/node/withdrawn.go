package node

import (
	"fmt"
	"maps"

	"moult/store/bundle"
)

// withdrawn is all that the operator has withdrawn, by the orders in force: what one of
// them says is never taken back.
func (n *Node) withdrawn() (all bundle.Withdrawn) {
	for _, v := range sorted(n.docs.orders) {
		for _, w := range n.docs.orders[v].Withdrawn {
			all = all.With(w)
		}
	}
	return all
}

// strike takes what is withdrawn out of the manifests: a release then does not change the
// class. A node whose software is of a withdrawn release stays there, by that release's
// manifest, and says so.
func (n *Node) strike() {
	d, class := &n.docs, n.cfg.Class
	all := n.withdrawn()
	running := n.machine.State().Running
	own, stays := all.Of(class, running)
	text := ""
	if stays {
		text = fmt.Sprintf("version %d of class %s is withdrawn, and this node runs it: it stays there, and no later release takes it on; end its agent, `moult forget` it, and install it anew", running, class)
	}
	n.alarm(causeWithdrawn, text)
	d.struck = map[bundle.Version]bool{}
	for _, v := range sorted(d.signed) {
		m := d.signed[v]
		for _, w := range all {
			if _, changes := d.signed[v].Classes[w.Class]; !changes || v < w.First || w.Last < v || stays && w == own {
				continue
			}
			c := *m
			c.Classes = maps.Clone(m.Classes)
			delete(c.Classes, w.Class)
			m = &c
			d.struck[v] = d.struck[v] || w.Class == class
		}
		d.manifests[v] = m
	}
	n.routing.stale, n.conditions = true, nil
}

// From returns the version from which a release must take a class, and whether releases
// between are withdrawn.
func (n *Node) From(class bundle.Class, release bundle.Version) (from bundle.Version, passes bool) {
	from = n.withdrawn().From(class, release, func(v bundle.Version) (changes, known bool) {
		m, known := n.docs.signed[v]
		if known {
			_, changes = m.Classes[class]
		}
		return changes, known
	})
	return from, from+1 != release
}
