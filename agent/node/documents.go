package node

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Document is something that the metadata in force name, or that is named by what
// they name.
type Document struct {
	Kind    DocumentKind
	Release bundle.Version // that it belongs to
	bundle.Chunk
	// Known: it was read before, and only has to be here.
	Known bool
}

// DocumentKind says what a document is.
type DocumentKind int

// The kinds of documents.
const (
	KindManifest     DocumentKind = iota
	KindOrder                     // the rollout order that the metadata in force name
	KindBound                     // the one that was in force here before a restart
	KindObject                    // the file of a simulation object
	KindMembers                   // who belongs to the cluster
	KindBoundMembers              // what was in force of that here before a restart
)

// documents are the verified manifests and rollout orders that the metadata in force
// name, or that this node is bound to, and that have arrived.
type documents struct {
	signed    map[bundle.Version]*bundle.Manifest
	manifests map[bundle.Version]*bundle.Manifest // without what is withdrawn: see strike
	struck    map[bundle.Version]bool             // those that would else change this node's class
	known     map[bundle.Version]bundle.Digest    // of these manifests
	orders    map[bundle.Version]*schedule.Order
	// bound has the digest of every order that this peer has taken, and at membersAt that
	// of who belongs to the cluster. An order is
	// never replaced but by its successor, also where a restart or a lost document
	// lies between.
	bound   map[bundle.Version]bundle.Digest
	joined  bundle.Digest                     // of the newest of them that has joined two, and is not resumed
	arrived map[bundle.Digest]*schedule.Order // named by the metadata, and not in force
	read    []Document                        // to be looked for on the disk
	asked   int                               // of them, those that are being looked for
	missing []Document
	rounds  rounds
}

func newDocuments(bound map[bundle.Version]bundle.Digest) documents {
	d := documents{
		signed: map[bundle.Version]*bundle.Manifest{}, manifests: map[bundle.Version]*bundle.Manifest{}, known: map[bundle.Version]bundle.Digest{},
		orders: map[bundle.Version]*schedule.Order{}, bound: map[bundle.Version]bundle.Digest{},
		arrived: map[bundle.Digest]*schedule.Order{},
	}
	maps.Copy(d.bound, bound)
	return d
}

// look lists all documents that the metadata in force name, and the contents that the node
// is bound to, to be looked for on the disk. What was read before stays.
func (n *Node) look() {
	d := &n.docs
	d.read, d.missing = nil, nil
	d.read = append(d.read, n.membersToRead()...)
	releases := maps.Clone(n.meta.Releases)
	if releases == nil {
		releases = map[bundle.Version]trust.Ref{}
	}
	for _, v := range sorted(n.contents) {
		releases[v] = trust.Ref(n.contents[v])
	}
	for _, v := range sorted(releases) {
		means := n.means(v)
		known := d.known[v] == means.Digest
		if !known {
			delete(d.signed, v)
			delete(d.manifests, v)
			n.conditions = nil // with a release go the names of facts
			delete(d.known, v)
		}
		d.read = append(d.read, Document{KindManifest, v, means, known})
		if known {
			d.read = append(d.read, n.objectsOf(v, true)...)
		}
	}
	for _, v := range sorted(n.meta.Orders) { // rising: each is compared with the one before
		ref, bound := n.meta.Orders[v], d.bound[v]
		if d.orders[v] == nil && !bound.IsZero() && bound != ref.Digest {
			d.read = append(d.read, Document{Kind: KindBound, Release: v, Chunk: bundle.Chunk{Digest: bound}})
		}
		known := (d.orders[v] != nil && bound == ref.Digest) || d.arrived[ref.Digest] != nil
		d.read = append(d.read, Document{KindOrder, v, bundle.Chunk{Digest: ref.Digest, Length: ref.Length}, known})
	}
	n.takeOrders()
}

// objectsOf lists the files of the simulation objects of a release, for this class.
func (n *Node) objectsOf(v bundle.Version, known bool) (files []Document) {
	for _, blob := range n.docs.manifests[v].Classes[n.cfg.Class].ObjectFiles() {
		files = append(files, Document{KindObject, v, blob, known})
	}
	return files
}

// manifestRead takes a manifest, if it is the one that this node means.
func (n *Node) manifestRead(e ManifestRead) {
	d, v := &n.docs, e.Release
	d.here(e.Document)
	if n.means(v).Digest != e.Digest || d.known[v] == e.Digest {
		return
	}
	if e.Manifest.Version != v {
		n.alarm(causeManifest(v), fmt.Sprintf("the manifest signed as release %d says that it is release %d", v, e.Manifest.Version))
		return
	}
	n.alarm(causeManifest(v), "")
	d.signed[v], d.known[v] = e.Manifest, e.Digest
	n.strike()
	d.read = append(d.read, n.objectsOf(v, false)...) // once, whether they are good
}

// unreadable notes a document that is here and says nothing to this agent.
func (n *Node) unreadable(e DocumentUnreadable) {
	switch {
	case e.Again:
		return // so no newer order takes its place yet
	case e.Kind == KindManifest:
		n.alarm(causeManifest(e.Release), fmt.Sprintf("release %d is not understood here: %s", e.Release, e.Problem))
	case e.Kind == KindMembers, e.Kind == KindBoundMembers:
		n.alarm(causeMembers, fmt.Sprintf("who belongs to the cluster is not understood here, so it stays as it was: %s", e.Problem))
	case e.Kind == KindBound:
		n.alarm(causeOrder(e.Release), fmt.Sprintf("the rollout order of release %d that is in force is not understood here: %s", e.Release, e.Problem))
	default:
		n.alarm(causeOrder(e.Release), fmt.Sprintf("the rollout order of release %d is not understood here: %s", e.Release, e.Problem))
	}
}

// documentMissing notes what peers are to be asked for. An order that was in force
// before a restart, and is gone with the disk, is lost: the newer one cannot be
// compared with it.
func (n *Node) documentMissing(doc Document) {
	if doc.Kind == KindBoundMembers {
		return // the one that the metadata name comes from peers
	}
	if doc.Kind == KindBound {
		if n.docs.orders[doc.Release] == nil && n.docs.bound[doc.Release] == doc.Digest {
			delete(n.docs.bound, doc.Release)
			n.takeOrders()
		}
		return
	}
	if !slices.ContainsFunc(n.docs.missing, func(have Document) bool { return have.Digest == doc.Digest }) {
		n.docs.missing = append(n.docs.missing, doc)
	}
}

func (d *documents) here(doc Document) {
	d.missing = slices.DeleteFunc(d.missing, func(m Document) bool { return m.Digest == doc.Digest })
}

// answered notes that one document was looked for.
func (d *documents) answered() { d.asked = max(d.asked-1, 0) }

// underWay reports whether documents are looked for, here or at peers, or are about
// to be. Those that no peer had are not, until they are asked for again.
func (d *documents) underWay(now time.Time) bool {
	return d.rounds.fetching || len(d.read)+d.asked > 0 || len(d.missing) > 0 && d.rounds.due(now)
}

// reading reports whether a manifest is, or may be, looked for on the disk.
func (d *documents) reading() bool {
	return d.asked > 0 || slices.ContainsFunc(d.read, func(doc Document) bool { return doc.Kind == KindManifest && !doc.Known })
}

// fetch returns what peers are to be asked for now.
func (n *Node) fetch() []Document {
	if len(n.docs.missing) == 0 || !n.docs.rounds.due(n.now) {
		return nil
	}
	return n.docs.rounds.turn(n.docs.missing)
}

// ManifestDigests are those of Manifests.
func (n *Node) ManifestDigests() map[bundle.Version]bundle.Digest { return n.docs.known }

// Manifests are those that have arrived, without what is withdrawn. The driver does not
// change them.
func (n *Node) Manifests() map[bundle.Version]*bundle.Manifest { return n.docs.manifests }

// Orders are the rollout orders in force here. The driver does not change them.
func (n *Node) Orders() map[bundle.Version]*schedule.Order { return n.docs.orders }

// BoundOrders are the documents of the orders in force here, which the metadata in
// force need not name any more.
func (n *Node) BoundOrders() map[bundle.Version]bundle.Digest { return n.docs.bound }

// Unread lists what Ready.Read does, for a driver that must know what is on the disk
// before it opens anything: Advance(Ready{Read: …}) and the answers follow, as ever.
func (n *Node) Unread() []Document { return n.docs.read }

// MissingDocuments counts the documents that have not arrived, or are not read yet.
// Those of releases that nobody has handed in are nowhere.
func (n *Node) MissingDocuments() int {
	count, head := len(n.docs.read), n.Head()
	for _, doc := range n.docs.missing {
		if doc.Release <= head {
			count++
		}
	}
	return count
}

// Head is the newest release that was handed in: it has a rollout order, or its
// manifest is here. That one was built and signed makes it nobody's yet.
func (n *Node) Head() (head bundle.Version) {
	for v := range n.meta.Orders {
		head = max(head, v)
	}
	for v := range n.docs.known {
		head = max(head, v)
	}
	return head
}

// rounds is when missing documents are asked for.
type rounds struct {
	fetching bool
	begun    int           // rounds so far
	pause    time.Duration // before the next, after one that brought nothing
	next     time.Time     // none begins before this
}

// due reports whether a round may begin.
func (r *rounds) due(now time.Time) bool { return !r.fetching && !now.Before(r.next) }

// turn returns the documents that the next round asks for: the newest first, and
// where there are too many for one round, others in the next, for a document that
// nobody has must not hold up the rest.
func (r *rounds) turn(missing []Document) []Document {
	turn := slices.Clone(missing)
	slices.Reverse(turn)
	if len(turn) > documentsAtOnce {
		i := r.begun * documentsAtOnce % len(turn)
		turn = append(turn[i:], turn[:i]...)[:documentsAtOnce]
	}
	return turn
}

func (r *rounds) begin() {
	r.fetching = true
	r.begun++
}

// end ends a round. One that brought nothing is followed by a pause that grows.
func (r *rounds) end(now time.Time, got int) {
	r.fetching = false
	if got > 0 {
		r.restart()
		return
	}
	r.pause = min(max(2*r.pause, minPause), maxPause)
	r.next = now.Add(r.pause)
}

// restart ends the pause: there is something new to ask for.
func (r *rounds) restart() { r.begun, r.pause, r.next = 0, 0, time.Time{} }
