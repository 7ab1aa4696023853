package agent

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"moult/agent/control"
	"moult/gossip"
	"moult/store"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Buckets and keys of the store's documents.
const (
	bucketTrust    = "trust"
	keySet         = "set"
	keyEvidence    = "evidence"
	bucketFrozen   = "frozen" // release -> the manifest held when it was frozen
	bucketOrders   = "orders" // release -> the rollout order in force here
	bucketMachine  = "machine"
	keyState       = "state"
	bucketView     = "view"
	bucketPeers    = "peers"
	journalUpgrade = "upgrade"
	journalTrust   = "trust"
)

// evidence is what this peer knows of releases that were signed twice (P3).
type evidence struct {
	// A validly signed set that contradicts the one in force; peers fetch it.
	// Which one is chosen depends on nothing but the sets (see proofOf).
	v      *trust.Verified
	set    []byte
	digest bundle.Digest
	// frozen has every release that was ever found in conflict, with the
	// manifest held for it then. It only grows, durably.
	frozen map[bundle.Version]bundle.Digest
}

// errOlder says that a set is not news; it is no fault of whoever sent it.
var errOlder = errors.New("these metadata are not newer than those in force")

// acceptSet judges a set that somebody handed over. When it returns nil, the
// set is in force, durably; the set in force handed over again is no error.
func (a *Agent) acceptSet(raw []byte) error {
	next, err := a.judgeSet(raw)
	if err != nil || next.Digest() == a.trust.Digest() {
		return err
	}
	return a.adopt(next, raw)
}

// adopt brings a set that judgeSet has passed into force.
func (a *Agent) adopt(next *trust.Verified, raw []byte) error {
	if err := a.saveTrust(next, raw); err != nil {
		return err
	}
	a.trust = next
	a.docs.rounds.hurry()
	a.loadDocuments()
	return nil
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
	a.freeze(alone)
	if alone.Digest() == a.trust.Digest() {
		return a.trust, nil
	}
	next, err := trust.Verify(a.firstRoot, a.trust, set)
	if err != nil {
		return nil, err
	}
	if err := a.checkFloor(next); err != nil {
		return nil, fmt.Errorf("%w: this peer has acted on newer metadata, and waits for a peer that has them", err)
	}
	if !trust.Newer(a.trust, next) {
		if next.Versions().Timestamp == a.trust.Versions().Timestamp {
			a.alarm("two different sets of metadata have timestamp version %d: somebody signed twice from one state; the next one signed (`moult trust refresh`, any order) ends it", next.Versions().Timestamp)
		}
		return nil, errOlder
	}
	return next, nil
}

// saveTrust makes a set, and the floor that it sets, durable. Where the set
// contradicts what was in force before, that becomes the evidence: it would
// else be forgotten.
func (a *Agent) saveTrust(v *trust.Verified, raw []byte) error {
	vs := v.Versions()
	ref, err := a.depot.PutBlob(raw) // it may be too long for a document
	if err != nil {
		return err
	}
	e, err := a.prove(proofOf(v, a.evidence.v, a.trust))
	if err != nil {
		return err
	}
	err = a.store.Update(func(tx *store.Tx) error {
		if err := tx.Put(bucketTrust, keySet, []byte(ref.Digest.String())); err != nil {
			return err
		}
		if err := putEvidence(tx, e); err != nil {
			return err
		}
		if _, err := tx.Append(journalTrust, []byte(v.Digest().String())); err != nil {
			return err
		}
		return tx.Raise(func(f *store.Floor) {
			f.Release = max(f.Release, v.Head())
			f.Root = max(f.Root, vs.Root)
			f.Timestamp = max(f.Timestamp, vs.Timestamp)
			f.Snapshot = max(f.Snapshot, vs.Snapshot)
			f.Targets = max(f.Targets, vs.Targets)
			f.Operator = max(f.Operator, vs.Operator)
		})
	})
	if err == nil {
		a.evidence = e
	}
	return err
}

// freeze freezes the releases of which other, validly signed, has another
// content than the set in force, and keeps the proof. No release thaws again:
// whoever signed twice may do so once more.
func (a *Agent) freeze(other *trust.Verified) {
	conflicts := trust.Conflicts(a.trust, other)
	if len(conflicts) == 0 {
		return
	}
	e, err := a.prove(proofOf(a.trust, a.evidence.v, other))
	fresh := map[bundle.Version]bundle.Digest{}
	for _, n := range conflicts {
		if !a.conflicted(n) {
			ref, _ := a.trust.Release(n)
			fresh[n] = ref.Digest
		}
	}
	if len(fresh) == 0 && e.digest == a.evidence.digest {
		return
	}
	if err == nil {
		err = a.store.Update(func(tx *store.Tx) error {
			for n, d := range fresh {
				if err := tx.Put(bucketFrozen, versionKey(n), []byte(d.String())); err != nil {
					return err
				}
			}
			return putEvidence(tx, e)
		})
	}
	if err != nil {
		a.log.Error("the evidence of a conflict is kept in memory only; peers bring it again", "releases", conflicts, "err", err)
	}
	a.evidence = e
	for n, d := range fresh {
		a.noteFrozen(n, d)
	}
}

// noteFrozen freezes a release in memory, and tells people.
func (a *Agent) noteFrozen(n bundle.Version, held bundle.Digest) {
	if a.evidence.frozen == nil {
		a.evidence.frozen = map[bundle.Version]bundle.Digest{}
	}
	a.evidence.frozen[n] = held
	a.alarm("release %d was signed twice with different content: it is frozen; publish a newer release, and ask who else holds the publisher's key", n)
}

// proofOf returns the one of some sets that proves a conflict with the set in
// force, nil for none. Of several it is the one that proves most, and of those
// the one with the least digest, so that peers that have seen the same sets
// agree on one and cease to send each other theirs.
func proofOf(inForce *trust.Verified, sets ...*trust.Verified) *trust.Verified {
	var best *trust.Verified
	most := 0
	for _, v := range sets {
		n := len(trust.Conflicts(inForce, v))
		if n == 0 || n < most {
			continue
		}
		if n > most || v.Digest().String() < best.Digest().String() {
			best, most = v, n
		}
	}
	return best
}

// prove stores a proof as a blob and returns the evidence with it; without a
// proof, or when that fails, the evidence stays as it is.
func (a *Agent) prove(proof *trust.Verified) (evidence, error) {
	e := a.evidence
	if proof == nil || proof.Digest() == e.digest {
		return e, nil
	}
	raw, err := proof.Set().Marshal()
	if err != nil {
		return e, err
	}
	e.v, e.set, e.digest = proof, raw, proof.Digest()
	_, err = a.depot.PutBlob(raw)
	return e, err
}

func putEvidence(tx *store.Tx, e evidence) error {
	if e.digest.IsZero() {
		return nil
	}
	return tx.Put(bucketTrust, keyEvidence, []byte(e.digest.String()))
}

// conflicted reports whether release n is frozen.
func (a *Agent) conflicted(n bundle.Version) bool {
	_, frozen := a.evidence.frozen[n]
	return frozen
}

// manifestOf is the digest of the manifest that this node means by release n:
// of a frozen one that it is at or past, what was in force when it got there.
func (a *Agent) manifestOf(n bundle.Version) bundle.Digest {
	if d, frozen := a.evidence.frozen[n]; frozen && n <= a.saved.Version {
		return d
	}
	return a.docs.read[n]
}

// restoreTrust brings back what was in force before the restart.
func (a *Agent) restoreTrust() error {
	raw, ok, err := a.stored(keySet)
	if err != nil {
		return err
	}
	if ok {
		set, err := trust.ParseSet(raw)
		if err != nil {
			return fmt.Errorf("restore trust metadata: %w", err)
		}
		v, err := trust.Verify(a.firstRoot, nil, set)
		if err != nil {
			return fmt.Errorf("restore trust metadata: %w", err)
		}
		a.trust = v
	}
	if err := a.checkFloor(a.trust); err != nil {
		// The database was lost: nothing older than the floor is accepted, and
		// peers bring what is newer.
		a.log.Warn("trust metadata are behind the floor, waiting for peers", "err", err)
	}
	if err := a.restoreEvidence(); err != nil {
		return err
	}
	if a.docs.bound, err = a.digests(bucketOrders); err != nil {
		return err
	}
	a.loadDocuments()
	return nil
}

// restoreEvidence freezes what was frozen before the restart.
func (a *Agent) restoreEvidence() error {
	frozen, err := a.digests(bucketFrozen)
	if err != nil {
		return err
	}
	for n, d := range frozen {
		a.noteFrozen(n, d)
	}
	raw, ok, err := a.stored(keyEvidence)
	if err != nil || !ok {
		return err
	}
	set, err := trust.ParseSet(raw)
	if err == nil {
		var v *trust.Verified
		if v, err = trust.Verify(a.firstRoot, nil, set); err == nil && v.Digest() != a.trust.Digest() {
			a.freeze(v)
			// Peers that have lost their proof get it here, also while the set
			// that it contradicts is not in force again.
			a.evidence.v, a.evidence.set, a.evidence.digest = v, raw, v.Digest()
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

// versionKey is the key of a release in a bucket.
func versionKey(n bundle.Version) string { return strconv.FormatUint(uint64(n), 10) }

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

func floorVersions(f store.Floor) trust.Versions {
	return trust.Versions{Root: f.Root, Timestamp: f.Timestamp, Snapshot: f.Snapshot, Targets: f.Targets, Operator: f.Operator}
}

// checkFloor reports trust.ErrRollback where v is older than what this peer
// has acted on, as the floor remembers it when the database is lost (P2).
func (a *Agent) checkFloor(v *trust.Verified) error {
	f := a.store.Floor()
	if err := v.CheckFloor(floorVersions(f)); err != nil {
		return err
	}
	if v.Head() < f.Release {
		return fmt.Errorf("%w: it ends at release %d, and release %d is known", trust.ErrRollback, v.Head(), f.Release)
	}
	return nil
}

// belowFloor reports that peers must first bring back metadata at least as new
// as those that this peer has already acted on (P2).
func (a *Agent) belowFloor() bool { return a.checkFloor(a.trust) != nil }

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
	for _, data := range signed.Orders {
		if _, err := a.depot.PutBlob(data); err != nil {
			return err
		}
	}
	if v.Digest() == a.trust.Digest() { // handed over again; the documents may be news
		a.loadDocuments()
		return nil
	}
	if err := a.adopt(v, signed.Set); err != nil {
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

// greatestBelow returns the greatest of some rising versions that is below n,
// 0 for none.
func greatestBelow(vs []bundle.Version, n bundle.Version) bundle.Version {
	i, _ := slices.BinarySearch(vs, n)
	if i == 0 {
		return 0
	}
	return vs[i-1]
}
