package sim

import (
	"fmt"
	"slices"
	"time"

	"moult/agent/membership"
	"moult/agent/node"
	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// set is the signed metadata: which releases and which serials of their orders are
// in force. It never changes.
type set struct {
	timestamp int64
	head      bundle.Version
	expires   time.Time
	orders    [maxRelease + 1]*schedule.Order
	manifests [maxRelease + 1]bundle.Digest
	members   *membership.Membership // nil: everybody belongs
	serial    uint64                 // of members
	meta      node.Metadata          // what verification would make of it
}

// publish makes a set known to all whom it reaches, and its documents to whoever
// looks for them.
func (s *simulation) publish(x *set) *set {
	x.meta = node.Metadata{
		Versions: trust.Versions{Root: 1, Timestamp: x.timestamp}, Expires: x.expires,
		Releases: map[bundle.Version]trust.Ref{}, Orders: map[bundle.Version]trust.Ref{},
	}
	text := fmt.Appendf(nil, "%d %v", x.timestamp, x.expires)
	for v := bundle.Version(1); v <= x.head; v++ {
		x.meta.Releases[v] = trust.Ref{Digest: x.manifests[v], Length: 1}
		text = fmt.Append(text, x.manifests[v])
		if o := x.orders[v]; o != nil {
			digest := bundle.Sum(must(schedule.MarshalOrder(o)))
			s.orders[digest] = o
			x.meta.Orders[v] = trust.Ref{Digest: digest, Length: 1}
			text = fmt.Append(text, digest)
		}
	}
	if x.members != nil {
		digest := bundle.Sum(must(x.members.Marshal()))
		s.members[digest] = x.members
		x.meta.Members = trust.Members{Ref: trust.Ref{Digest: digest, Length: 1}, Serial: x.serial}
		text = fmt.Append(text, digest)
	}
	x.meta.Digest = bundle.Sum(text)
	s.sets[x.meta.Digest] = x
	return x
}

// documents lists all that a set names.
func (x *set) documents() (ds []bundle.Digest) {
	for v := bundle.Version(1); v <= x.head; v++ {
		ds = append(ds, x.manifests[v])
		if ref, ok := x.meta.Orders[v]; ok {
			ds = append(ds, ref.Digest)
		}
	}
	if x.members != nil {
		ds = append(ds, x.meta.Members.Digest)
	}
	return ds
}

// offer is metadata from a peer or an operator.
func (a *agent) offer(next *set) {
	if next == nil {
		return
	}
	a.noteHalf(next)
	if a.shown == nil || next.timestamp > a.shown.timestamp {
		a.shown = next
	}
	// What it was shown before anything was in force here it could compare with nothing.
	if v, have := a.s.twice, a.set(); v != 0 && v <= next.head && have != nil && v <= have.head {
		for _, x := range []*set{have, next} {
			a.contents[x.manifests[v] == a.s.operator.set.manifests[v]] = true
		}
	}
	a.tell(node.MetadataSeen{Metadata: next.meta})
	a.tell(node.MetadataVerified{Metadata: next.meta})
	a.flush()
}

func (a *agent) timestamp() int64 { return a.node.Metadata().Timestamp }

// set is what is in force, as signed; nil for none.
func (a *agent) set() *set { return a.s.sets[a.node.Metadata().Digest] }

// read looks for documents on the disk.
func (a *agent) read(docs []node.Document) {
	for _, doc := range docs {
		m, isManifest := a.s.contents[doc.Digest]
		var e node.Event = node.DocumentMissing{Document: doc}
		switch {
		case !a.h.has(doc.Digest):
		case doc.Known:
			e = node.DocumentHere{Document: doc}
		case isManifest:
			e = node.ManifestRead{Document: doc, Manifest: m}
		case doc.Kind == node.KindMembers, doc.Kind == node.KindBoundMembers:
			e = node.MembersRead{Document: doc, Members: a.s.members[doc.Digest]}
		default:
			e = node.OrderRead{Document: doc, Order: a.s.orders[doc.Digest]}
		}
		a.tell(e)
	}
}

// fetchDocuments asks some peers for documents.
func (a *agent) fetchDocuments(docs []node.Document) {
	a.after(a.s.between(20*time.Millisecond, time.Second), func() {
		got := 0
		for _, doc := range docs {
			if a.h.has(doc.Digest) || a.fetch(doc.Digest) {
				got++
				a.tell(node.DocumentFetched{Document: doc})
			}
		}
		a.tell(node.FetchEnded{Got: got})
	})
}

// fetch asks some peers for a document, and keeps it.
func (a *agent) fetch(d bundle.Digest) bool {
	for range 3 {
		peer := a.s.somebody(a.h)
		if peer.agent != nil && peer.has(d) && a.s.net.open(a.s, a.h, peer) && a.s.net.open(a.s, peer, a.h) {
			a.h.receive(d)
			return true
		}
	}
	return false
}

func (h *host) has(d bundle.Digest) bool { return slices.Contains(h.disk.docs, d) }

// receive keeps documents, durably.
func (h *host) receive(ds ...bundle.Digest) {
	for _, d := range ds {
		if !h.has(d) {
			h.disk.docs = append(h.disk.docs, d)
		}
	}
}
