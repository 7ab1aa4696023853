package agent

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

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

// expiry says when the metadata in force have expired.
func (a *Agent) expiry() string {
	text := "expired on " + a.trust.Expires().Format(time.DateOnly)
	if !a.trust.Expired(time.Now()) {
		text += " by this peer's clock, which was set back since"
	}
	return text
}

// seen tells the node of a validly signed set, where it is evidence against the
// publisher, and keeps it if the node does.
func (a *Agent) seen(v *trust.Verified) {
	if len(trust.Conflicts(a.trust, v)) == 0 {
		return
	}
	a.sets[v.Digest()] = v
	a.step(node.MetadataSeen{Metadata: metadataOf(v)})
	a.noteSets()
}

// noteSets forgets the sets that the node has no use for.
func (a *Agent) noteSets() {
	inForce, evidence := a.node.Metadata().Digest, a.node.Evidence().Digest
	a.trust = a.sets[inForce]
	maps.DeleteFunc(a.sets, func(d bundle.Digest, _ *trust.Verified) bool { return d != inForce && d != evidence })
}

// acceptSet judges a set that somebody handed over. When it returns nil, the
// set is in force, durably; the set in force handed over again is no error.
func (a *Agent) acceptSet(raw []byte) error {
	next, err := a.judgeSet(raw)
	if err != nil {
		return err
	}
	if next.Digest() == a.trust.Digest() {
		return a.kept()
	}
	return a.adopt(next)
}

// adopt brings a set that judgeSet has passed into force.
func (a *Agent) adopt(next *trust.Verified) error {
	raw, err := next.Set().Marshal()
	if err == nil {
		_, err = a.depot.PutBlob(raw) // what cannot be kept does not come into force
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errNotKept, err)
	}
	a.sets[next.Digest()] = next
	a.step(verified(a.trust, next))
	a.noteSets()
	a.flush()
	return a.kept()
}

// errNotKept says that metadata are good, and not stored. They may be handed over again.
var errNotKept = errors.New("metadata are not kept")

// kept reports why what is in force may not be durable.
func (a *Agent) kept() error {
	switch {
	case a.broken != nil:
		return fmt.Errorf("%w: %w", errNotKept, a.broken)
	case a.node.Refusing():
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
func (a *Agent) judgeSet(raw []byte) (*trust.Verified, error) {
	set, err := trust.ParseSet(raw)
	if err != nil {
		return nil, err
	}
	alone, err := trust.Verify(a.firstRoot, nil, set)
	if err != nil {
		return nil, err
	}
	a.seen(alone)
	if alone.Digest() == a.trust.Digest() {
		return a.trust, nil
	}
	next, err := trust.Verify(a.firstRoot, a.trust, set)
	if err != nil {
		return nil, err
	}
	if err := a.node.JudgeMetadata(metadataOf(next)); err != nil {
		a.step(verified(a.trust, next)) // which says that there are two of one number
		return nil, err
	}
	return next, nil
}

// restoreTrust reads what was in force before the restart, and what was frozen.
func (a *Agent) restoreTrust(m *node.Memory) error {
	raw, ok, err := a.stored(keySet)
	if err != nil {
		return err
	}
	if ok {
		set, err := trust.ParseSet(raw)
		if err != nil {
			return fmt.Errorf("restore trust metadata: %w", err)
		}
		if a.trust, err = trust.Verify(a.firstRoot, nil, set); err != nil {
			return fmt.Errorf("restore trust metadata: %w", err)
		}
	}
	a.sets[a.trust.Digest()] = a.trust
	m.Metadata = metadataOf(a.trust)
	if m.Frozen, err = a.digests(bucketFrozen); err != nil {
		return err
	}
	if m.Bound, err = a.digests(bucketOrders); err != nil {
		return err
	}
	return a.restoreEvidence(m)
}

// restoreEvidence reads the proof of a conflict. Peers that have lost theirs get it
// here.
func (a *Agent) restoreEvidence(m *node.Memory) error {
	raw, ok, err := a.stored(keyEvidence)
	if err != nil || !ok {
		return err
	}
	set, err := trust.ParseSet(raw)
	if err == nil {
		var v *trust.Verified
		if v, err = trust.Verify(a.firstRoot, nil, set); err == nil && v.Digest() != a.trust.Digest() && !trust.Thaws(v, a.trust) {
			a.sets[v.Digest()], m.Evidence = v, metadataOf(v)
		}
	}
	if err != nil {
		a.log.Warn("the stored evidence of a conflict is unreadable; what is frozen stays frozen", "err", err)
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
func (a *Agent) accept(signed control.Signed) error {
	v, err := a.judgeSet(signed.Set)
	if err != nil {
		return control.Refused(fmt.Errorf("signed metadata refused: %w", err), "another operator may have signed something in between: try again")
	}
	for n, data := range signed.Orders {
		if err := a.checkOrder(v, n, data); err != nil {
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
		if _, err := a.depot.PutBlob(data); err != nil {
			return err
		}
	}
	if v.Digest() == a.trust.Digest() { // handed over again; the documents may be news
		a.step(node.LookAgain{})
		a.flush()
		return a.kept()
	}
	if err := a.adopt(v); err != nil {
		return err
	}
	a.announce()
	return nil
}

// announce tells the ring that there is news here.
func (a *Agent) announce() {
	if a.ring == nil {
		return
	}
	if err := a.ring.Announce(gossip.Hint{Timestamp: a.trust.Versions().Timestamp, Digest: a.trust.Digest()}); err != nil {
		a.log.Warn("announcement not sent, anti-entropy will spread the news", "err", err)
	}
}
