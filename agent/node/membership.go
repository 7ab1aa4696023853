package node

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"moult/agent/membership"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
)

// belonging is who belongs to the cluster, as this node knows it.
type belonging struct {
	members *membership.Membership // the newest that has arrived; nil for none
	of      bundle.Digest          // its document
	// strangers are the nodes of the view that do not belong.
	strangers map[bundle.NodeID]bool
}

// Members is who belongs to the cluster. nil: the operator has signed nothing of that,
// or nothing that has arrived here.
func (n *Node) Members() *membership.Membership { return n.belonging.members }

// membersAt is where the document of who belongs stands among those that bind a node: no
// release has this number.
const membersAt bundle.Version = 0

// Closed reports whether there is a word of the operator's on who belongs to the cluster,
// and this agent goes by it. That there is one is not forgotten with the metadata.
func (n *Node) Closed() bool {
	return !n.cfg.OpenRing && (n.meta.Members.Serial != 0 || n.floor.Members != 0)
}

// membersToRead lists what there is to be looked for of who belongs: what was in force here
// before a restart, where nothing is, and what the metadata in force name.
func (n *Node) membersToRead() (docs []Document) {
	ref, bound := n.meta.Members, n.docs.bound[membersAt]
	if n.belonging.members == nil && !bound.IsZero() && bound != ref.Digest {
		docs = append(docs, Document{Kind: KindBoundMembers, Chunk: bundle.Chunk{Digest: bound}})
	}
	if ref.Serial != 0 {
		docs = append(docs, Document{Kind: KindMembers, Chunk: bundle.Chunk(ref.Ref), Known: n.belonging.of == ref.Digest})
	}
	return docs
}

// awaitsMembers reports that who belongs to the cluster is signed, and that nothing of
// it, old or new, is here. Until it comes nobody's address counts, for it may be a
// stranger's, and everybody's version does, for that keeps everything as it is.
func (n *Node) awaitsMembers() bool { return n.Closed() && n.belonging.members == nil }

// membersPending reports that the newest word on who belongs is not here. What is given up
// for good waits for it: a node that runs old software may belong by it.
func (n *Node) membersPending() bool {
	return n.awaitsMembers() || n.Closed() && n.belonging.of != n.meta.Members.Digest
}

// Stranger reports whether a node of the view does not belong to the cluster, and so
// decides nothing here.
func (n *Node) Stranger(id bundle.NodeID) bool { return n.belonging.strangers[id] }

// membersRead takes the document of who belongs to the cluster, if it is the one that
// the metadata in force name.
func (n *Node) membersRead(e MembersRead) {
	n.docs.here(e.Document)
	bound := n.docs.bound[membersAt]
	inForce := e.Digest == n.meta.Members.Digest || e.Kind == KindBoundMembers && e.Digest == bound && n.belonging.members == nil
	if !inForce || n.belonging.of == e.Digest {
		return
	}
	n.belonging = belonging{members: e.Members, of: e.Digest}
	if bound != e.Digest {
		n.docs.bound[membersAt] = e.Digest
		n.unsaved.bind(membersAt, e.Digest)
	}
	n.membersHere(e.Document)
	n.sortMembers()
}

// membersHere notes that the document of who belongs that the metadata name is here.
func (n *Node) membersHere(doc Document) {
	if doc.Kind == KindMembers && doc.Digest == n.meta.Members.Digest {
		n.alarm(causeMembers, "")
	}
}

// membersMissed says that no peer has the document of who belongs, where that is so.
func (n *Node) membersMissed() {
	for _, doc := range n.docs.missing {
		if doc.Kind == KindMembers {
			n.alarm(causeMembers, "who belongs to the cluster has changed, and no peer has the document that says how: `moult trust push` with the trust folder that signed it brings it, and `moult member add --all --anew` begins anew; until then it stays as it was")
		}
	}
}

// sortMembers tells members from strangers, of all nodes.
func (n *Node) sortMembers() {
	n.belonging.strangers = map[bundle.NodeID]bool{}
	for r := range n.view.All() {
		n.noteStranger(r)
	}
	n.listed, n.routing.stale = false, true
}

// noteStranger tells whether the node of a record belongs.
func (n *Node) noteStranger(r view.Record) {
	stranger := n.Closed() && !n.cfg.Rules.Counts(n.belonging.members, r)
	if stranger != n.belonging.strangers[r.Node] {
		n.listed = false
	}
	if stranger {
		n.belonging.strangers[r.Node] = true
	} else {
		delete(n.belonging.strangers, r.Node)
	}
	if r.Node == n.cfg.Self {
		n.alarm(causeStranger, n.whyNotCounted(r, stranger))
	}
}

// makeRoom has strangers give way to members where the view is full, so that nobody keeps
// members out of it by nodes that he makes up. It returns the records with those first
// that have got room. A stranger that stands in the newest order is waited for, and stays.
func (n *Node) makeRoom(records []view.Signed) []view.Signed {
	after := n.view.Len()
	if !n.Closed() || after+len(records) <= view.MaxNodes {
		return records
	}
	var first, rest []view.Signed
	var yield []bundle.NodeID
	for _, s := range records {
		r, err := view.Open(s)
		if _, known := n.view.Get(r.Node); err != nil || known || n.belonging.members == nil || !n.belonging.members.Counts(r) {
			rest = append(rest, s)
			continue
		}
		first = append(first, s)
		if after++; after <= view.MaxNodes {
			continue
		}
		if yield == nil {
			yield = n.idleStrangers()
		}
		if len(yield) == 0 {
			continue
		}
		n.view.Drop(yield[0])
		n.gone(yield[0])
		yield, after = yield[1:], after-1
	}
	return append(first, rest...)
}

// idleStrangers are those that do not stand in the newest order.
func (n *Node) idleStrangers() (ids []bundle.NodeID) {
	for _, id := range slices.SortedFunc(maps.Keys(n.belonging.strangers), func(a, b bundle.NodeID) int { return bytes.Compare(a[:], b[:]) }) {
		if r, _ := n.view.Get(id); n.newestPlaces()[r.Class][id] == 0 && id != n.cfg.Self {
			ids = append(ids, id)
		}
	}
	return ids
}

// whyNotCounted tells why this node does not count, or not where it says that it is reached;
// "" where it does.
func (n *Node) whyNotCounted(r view.Record, stranger bool) string {
	if stranger {
		why := "is not enrolled"
		if n.belonging.members.Evicted(r.Node) {
			why = "is evicted"
		} else if m, ok := n.belonging.members.Member(r.Node); ok {
			why = fmt.Sprintf("is enrolled for class %s", m.Class)
		}
		return fmt.Sprintf("this node %s, so no rollout includes it and other nodes' calls do not reach it: `moult member add %s` enrols it", why, r.Node.Short())
	}
	for _, name := range sorted(r.Services) {
		if host := hostOf(r.Services[name].Public); n.Closed() && !n.belonging.members.MayHave(r.Node, host) {
			return fmt.Sprintf("this node is enrolled at other hosts than that of its address %s, so other nodes' calls do not reach it there: `moult member add %s` enrols it anew", r.Services[name].Public, r.Node.Short())
		}
	}
	return ""
}

// standingOf is Standing, given what the newest order says.
func (n *Node) standingOf(r view.Record, by schedule.Standing) schedule.Standing {
	if (by == schedule.StandingIn || by == schedule.StandingOutside) && n.Stranger(r.Node) && n.newestPlaces()[r.Class][r.Node] == 0 {
		return schedule.StandingStranger
	}
	return by
}
