package agent

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"moult/agent/control"
	"moult/agent/node"
	"moult/gossip"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Buckets and keys of the store's documents.
const (
	bucketTrust    = "trust"
	keySet         = "set"
	keyEvidence    = "evidence"
	keyEnrolment   = "enrolment"
	bucketFrozen   = "frozen" // release -> the manifest held when it was frozen
	bucketOrders   = "orders" // release -> the rollout order in force here
	bucketMachine  = "machine"
	keyState       = "state"
	bucketView     = "view"
	bucketPeers    = "peers"
	bucketNames    = "names" // node -> the name that is its
	journalUpgrade = "upgrade"
	journalTrust   = "trust"
)

// metadataOf is what verified metadata say, as far as the node decides by it.
func metadataOf(v *trust.Verified) node.Metadata {
	m := node.Metadata{
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

// noteEvidence tells the node of a validly signed set, where it is evidence against the
// publisher, and keeps it if the node does.
func (l *loop) noteEvidence(v *trust.Verified) {
	if len(trust.Conflicts(l.trust, v)) == 0 {
		return
	}
	l.sets[v.Digest()] = v
	l.step(node.MetadataSeen{Metadata: metadataOf(v)})
	l.noteSets()
}

// noteSets forgets the sets that the node has no use for.
func (l *loop) noteSets() {
	inForce, evidence := l.node.Metadata().Digest, l.node.Evidence().Digest
	l.trust = l.sets[inForce]
	maps.DeleteFunc(l.sets, func(d bundle.Digest, _ *trust.Verified) bool { return d != inForce && d != evidence })
}

// acceptSet judges a set that somebody handed over. When it returns nil, the
// set is in force, durably; the set in force handed over again is no error.
func (l *loop) acceptSet(raw []byte) error {
	next, err := l.judgeSet(raw)
	if err != nil {
		return err
	}
	if next.Digest() == l.trust.Digest() {
		return l.checkKept()
	}
	return l.adopt(next)
}

// adopt brings a set that judgeSet has passed into force.
func (l *loop) adopt(next *trust.Verified) error {
	if _, err := l.putSet(next); err != nil { // what cannot be kept does not come into force
		return fmt.Errorf("%w: %w", errNotKept, err)
	}
	l.sets[next.Digest()] = next
	l.step(verified(l.trust, next))
	l.noteSets()
	l.flush()
	return l.checkKept()
}

// errNotKept says that metadata are good, and not stored. They may be handed over again.
var errNotKept = errors.New("metadata are not kept")

// checkKept reports why what is in force may not be durable.
func (l *loop) checkKept() error {
	switch {
	case l.broken != nil:
		return fmt.Errorf("%w: %w", errNotKept, l.broken)
	case l.node.Refusing():
		return fmt.Errorf("%w: the disk of this peer is full; make room there, and hand them over again", errNotKept)
	}
	return nil
}

func verified(inForce, next *trust.Verified) node.MetadataVerified {
	return node.MetadataVerified{Metadata: metadataOf(next), KeysReplaced: trust.Thaws(inForce, next)}
}

// judgeSet verifies a set and reports why it must not come into force. What it
// proves counts in any case: a set that contradicts the one in force freezes
// the releases that they disagree about, also when it is refused.
func (l *loop) judgeSet(raw []byte) (*trust.Verified, error) {
	alone, err := l.verify(raw)
	if err != nil {
		return nil, err
	}
	l.noteEvidence(alone)
	if alone.Digest() == l.trust.Digest() {
		return l.trust, nil
	}
	next, err := trust.Verify(l.firstRoot, l.trust, alone.Set())
	if err != nil {
		return nil, err
	}
	if err := l.node.JudgeMetadata(metadataOf(next)); err != nil {
		l.step(verified(l.trust, next)) // which says that there are two of one number
		return nil, err
	}
	return next, nil
}

// verify reads a set and verifies it by itself.
func (a *Agent) verify(raw []byte) (*trust.Verified, error) {
	set, err := trust.ParseSet(raw)
	if err != nil {
		return nil, err
	}
	return trust.Verify(a.firstRoot, nil, set)
}

// restoreTrust reads what was in force before the restart, and what was frozen.
func (l *loop) restoreTrust(m *node.Memory) error {
	raw, ok, err := l.stored(keySet)
	if err != nil {
		return err
	}
	if ok {
		if l.trust, err = l.verify(raw); err != nil {
			return fmt.Errorf("restore trust metadata: %w", err)
		}
	}
	l.sets[l.trust.Digest()] = l.trust
	m.Metadata = metadataOf(l.trust)
	if m.Frozen, err = l.digests(bucketFrozen); err != nil {
		return err
	}
	if m.Bound, err = l.digests(bucketOrders); err != nil {
		return err
	}
	return l.restoreEvidence(m)
}

// restoreEvidence reads the proof of a conflict. Peers that have lost theirs get it
// here.
func (l *loop) restoreEvidence(m *node.Memory) error {
	raw, ok, err := l.stored(keyEvidence)
	if err != nil || !ok {
		return err
	}
	v, err := l.verify(raw)
	switch {
	case err != nil:
		l.log.Warn("the stored evidence of a conflict is unreadable; what is frozen stays frozen", "err", err)
	case v.Digest() != l.trust.Digest() && !trust.Thaws(v, l.trust):
		l.sets[v.Digest()], m.Evidence = v, metadataOf(v)
	}
	return nil
}

// digests reads a bucket that has a digest for each release.
func (a *Agent) digests(bucket string) (map[bundle.Version]bundle.Digest, error) {
	ds := map[bundle.Version]bundle.Digest{}
	err := a.store.Each(bucket, func(key string, value []byte) error {
		n, err := strconv.ParseUint(key, 10, 64)
		if err != nil {
			return fmt.Errorf("the store's %s has an entry %q, which is no release: %w", bucket, key, err)
		}
		d, err := bundle.ParseDigest(string(value))
		if err != nil {
			return fmt.Errorf("the store's %s for release %d: %w", bucket, n, err)
		}
		ds[bundle.Version(n)] = d
		return nil
	})
	return ds, err
}

// stored returns the blob whose digest the store keeps under key. A blob that
// is gone is no error: peers have it.
func (a *Agent) stored(key string) ([]byte, bool, error) {
	text, ok, err := a.store.Get(bucketTrust, key)
	if err != nil || !ok {
		return nil, false, err
	}
	digest, err := bundle.ParseDigest(string(text))
	if err != nil {
		return nil, false, fmt.Errorf("restore trust metadata: %w", err)
	}
	raw, ok, err := a.depot.Blob(digest)
	if err != nil {
		a.log.Warn("stored metadata unreadable, peers will bring them", "digest", digest.Short(), "err", err)
		return nil, false, nil
	}
	return raw, ok, nil
}

// accept takes a set with its documents from an operator or a publisher, and
// announces it: peers that hear of it by anti-entropy later need not.
func (l *loop) accept(signed control.Signed) error {
	v, err := l.judgeSet(signed.Set)
	if err != nil {
		return control.Refused(fmt.Errorf("signed metadata refused: %w", err), "another operator may have signed something in between: try again")
	}
	for n, data := range signed.Orders {
		if err := l.checkOrder(v, n, data); err != nil {
			return control.Refused(err, "look at `moult status`: somebody else may have changed the rollout meanwhile")
		}
	}
	docs := slices.Collect(maps.Values(signed.Orders))
	if signed.Members != nil {
		if err := checkMembers(v, signed.Members); err != nil {
			return control.Refused(err, "somebody else may have changed it meanwhile: try again")
		}
		docs = append(docs, signed.Members)
	}
	for _, data := range docs {
		if _, err := l.depot.PutBlob(data); err != nil {
			return err
		}
	}
	if v.Digest() == l.trust.Digest() { // handed over again; the documents may be news
		l.step(node.LookAgain{})
		l.flush()
		return l.checkKept()
	}
	if err := l.adopt(v); err != nil {
		return err
	}
	l.announce()
	return nil
}

// announce tells the ring that there is news here.
func (l *loop) announce() {
	if err := l.ring.Announce(gossip.Hint{Timestamp: l.trust.Versions().Timestamp, Digest: l.trust.Digest()}); err != nil {
		l.log.Warn("announcement not sent, anti-entropy will spread the news", "err", err)
	}
}
