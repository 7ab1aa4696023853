package node

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"moult/agent/upgrade"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Metadata is what a set of verified trust metadata says, as far as decisions go.
// The driver makes it of a set that it has verified; nobody changes it.
type Metadata struct {
	trust.Versions
	Digest  bundle.Digest // of the set; zero only where there is none
	Expires time.Time
	// Releases and Orders name the manifests and rollout orders.
	Releases, Orders map[bundle.Version]trust.Ref
	// Members names the document of who belongs to the cluster; zero for none.
	Members trust.Members
}

// MetadataOf is what verified metadata say, as far as the node decides by it.
func MetadataOf(v *trust.Verified) Metadata {
	m := Metadata{
		Versions: v.Versions(), Digest: v.Digest(), Expires: v.Expires(),
		Releases: map[bundle.Version]trust.Ref{}, Orders: map[bundle.Version]trust.Ref{},
	}
	for _, n := range v.Releases() {
		m.Releases[n], _ = v.Release(n)
	}
	for _, n := range v.Orders() {
		m.Orders[n], _ = v.Order(n)
	}
	m.Members, _ = v.Members()
	return m
}

// Head is the newest release; 0 for none.
func (m Metadata) Head() (head bundle.Version) {
	for v := range m.Releases {
		head = max(head, v)
	}
	return head
}

// Expired reports whether the metadata had expired at a time.
func (m Metadata) Expired(now time.Time) bool { return now.After(m.Expires) }

// Conflicts lists the releases to which two sets give different content (P3).
func (m Metadata) Conflicts(other Metadata) (vs []bundle.Version) {
	for _, v := range sorted(m.Releases) {
		if ref, ok := other.Releases[v]; ok && ref != m.Releases[v] {
			vs = append(vs, v)
		}
	}
	return vs
}

// ErrOlder says that a set is not news; it is no fault of whoever sent it.
var ErrOlder = errors.New("these metadata are not newer than those in force")

// JudgeMetadata reports why a set, verified on top of the one in force, must not
// come into force: trust.ErrRollback or ErrOlder, for errors.Is.
func (n *Node) JudgeMetadata(m Metadata) error {
	if err := n.floor.check(m); err != nil {
		return fmt.Errorf("%w: this peer has acted on newer metadata, and waits for a peer that has them", err)
	}
	if m.Timestamp <= n.meta.Timestamp && !n.meta.Digest.IsZero() {
		return ErrOlder
	}
	return nil
}

// take brings a set into force, if it may. Where it contradicts what was in force
// before, that becomes the evidence: it would else be forgotten.
func (n *Node) take(m Metadata, keysReplaced bool) {
	if m.Digest == n.meta.Digest {
		return
	}
	if !keysReplaced {
		n.freeze(m)
	}
	if err := n.JudgeMetadata(m); err != nil {
		if errors.Is(err, ErrOlder) && m.Timestamp == n.meta.Timestamp {
			n.forked = true
			n.alarm(causeFork, fmt.Sprintf("two different sets of metadata have timestamp version %d: somebody signed twice from one state, perhaps two rollout orders of one release; no node goes down before the next one is signed (`moult trust refresh`, any order)", m.Timestamp))
		}
		return
	}
	n.forked = false
	n.alarm(causeFork, "")
	if keysReplaced {
		n.thaw(m)
	} else {
		n.prove(proofOf(m, n.evidence, n.meta))
	}
	n.meta = m
	n.floor.raise(m)
	n.unsaved.Metadata = m.Digest
	n.docs.rounds.restart()
	n.look()
}

// freeze freezes the releases of which other, validly signed, has another content
// than the set in force, and keeps the proof. No release thaws again while the keys that
// signed twice are in force: whoever has them may do so once more.
func (n *Node) freeze(other Metadata) {
	conflicts := n.meta.Conflicts(other)
	if len(conflicts) == 0 {
		return
	}
	n.prove(proofOf(n.meta, n.evidence, other))
	for _, v := range conflicts {
		if n.Conflicted(v) {
			continue
		}
		held := n.meta.Releases[v].Digest
		n.freezeOne(v, held)
		n.unsaved.freeze(v, held)
	}
}

// thaw takes up what m says, whose keys are others than those that signed twice. A
// release that this node has reached by another content than m's stays frozen: what
// it runs is not what m means by it.
func (n *Node) thaw(m Metadata) {
	n.evidence, n.unsaved.Evidence = Metadata{}, bundle.Digest{} // it is none against the keys in force
	for _, v := range sorted(n.frozen) {
		if v <= n.saved.Version && n.frozen[v] != m.Releases[v].Digest {
			continue
		}
		delete(n.frozen, v)
		n.unsaved.freeze(v, bundle.Digest{})
		n.alarm(causeRelease(v), "")
	}
}

// freeze notes the manifest held of a frozen release, or with a zero digest that it is
// frozen no more.
func (s *Save) freeze(v bundle.Version, held bundle.Digest) {
	if s.Frozen == nil {
		s.Frozen = map[bundle.Version]bundle.Digest{}
	}
	s.Frozen[v] = held
}

func (n *Node) freezeOne(v bundle.Version, held bundle.Digest) {
	n.frozen[v] = held
	n.alarm(causeRelease(v), fmt.Sprintf("release %d was signed twice with different content: it is frozen; publish a newer release, and ask who else holds the publisher's key", v))
}

// prove keeps a proof, if it is another than the one that is kept.
func (n *Node) prove(proof Metadata) {
	if proof.Digest.IsZero() || proof.Digest == n.evidence.Digest {
		return
	}
	n.evidence, n.unsaved.Evidence = proof, proof.Digest
}

// proofOf returns the one of some sets that proves a conflict with the set in
// force, zero for none. Of several it is the one that proves most, and of those
// the one with the least digest, so that peers that have seen the same sets
// agree on one and cease to send each other theirs.
func proofOf(inForce Metadata, sets ...Metadata) (best Metadata) {
	most := 0
	for _, m := range sets {
		k := len(inForce.Conflicts(m))
		if k > most || (k == most && k > 0 && m.Digest.String() < best.Digest.String()) {
			best, most = m, k
		}
	}
	return best
}

// Metadata are those in force.
func (n *Node) Metadata() Metadata { return n.meta }

// Evidence is a set that contradicts the one in force; zero for none.
func (n *Node) Evidence() Metadata { return n.evidence }

// Conflicted reports whether a release is frozen, since it was signed twice.
func (n *Node) Conflicted(v bundle.Version) bool {
	_, frozen := n.frozen[v]
	return frozen
}

// means is the manifest that this node means by a release, whether or not it is here: of
// what it runs, and of what it is on its way through, the one that it began with; of
// a frozen one that it is at or past, what was in force when it got there; else what the
// metadata in force name.
func (n *Node) means(v bundle.Version) bundle.Chunk {
	if c, ok := n.contents[v]; ok {
		return c
	}
	ref := n.meta.Releases[v]
	if held := n.frozen[v]; v <= n.saved.Version && !held.IsZero() && held != ref.Digest {
		return bundle.Chunk{Digest: held}
	}
	return bundle.Chunk(ref)
}

// disowned reports that the metadata in force name another content of a release than
// this node means by it.
func (n *Node) disowned(v bundle.Version) bool {
	ref, named := n.meta.Releases[v]
	return named && n.means(v).Digest != ref.Digest
}

// bindContents looks anew at documents where the machine has come to mean others.
func (n *Node) bindContents() {
	bound := n.machine.State().Bound()
	before := map[bundle.Version]bundle.Chunk{}
	for _, v := range append(sorted(n.contents), sorted(bound)...) {
		before[v] = n.means(v)
	}
	n.contents = bound
	for _, v := range sorted(before) {
		if now := n.means(v); now != before[v] && now.Digest != n.docs.known[v] {
			n.look()
			return
		}
	}
}

// reached keeps, of frozen releases that the node has come through, what it has meant
// by them.
func (n *Node) reached(s upgrade.State) {
	for _, v := range sorted(n.frozen) {
		if d := n.docs.known[v]; n.saved.Version < v && v <= s.Version && !d.IsZero() && d != n.frozen[v] {
			n.frozen[v] = d
			n.unsaved.freeze(v, d)
		}
	}
}

// Expired reports whether the metadata in force have expired, now or once: a clock that
// is set back does not make them good again. Newer ones do.
func (n *Node) Expired() bool {
	return n.meta.Expired(n.now) || n.meta.Timestamp != 0 && n.meta.Timestamp <= n.floor.Expired
}

// noteExpiry keeps that the metadata in force have expired.
func (n *Node) noteExpiry() {
	if n.meta.Expired(n.now) {
		n.floor.Expired = max(n.floor.Expired, n.meta.Timestamp)
	}
}

// sorted lists the keys of a map.
func sorted[K cmp.Ordered, T any](m map[K]T) []K {
	return slices.Sorted(maps.Keys(m))
}
