package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"moult/agent/control"
	"moult/agent/schedule"
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
	bucketMachine  = "machine"
	keyState       = "state"
	bucketView     = "view"
	bucketPeers    = "peers"
	journalUpgrade = "upgrade"
	journalTrust   = "trust"
)

// evidence is a validly signed set that contradicts the one in force (P3).
type evidence struct {
	release bundle.Version
	set     []byte
	digest  bundle.Digest
}

// documents are the verified manifests and rollout orders that the metadata
// in force names and that have arrived.
type documents struct {
	manifests map[bundle.Version]*bundle.Manifest
	orders    map[bundle.Version]*schedule.Order
	missing   []bundle.Chunk
	fetching  bool
}

// errOlder says that a set is not news; it is no fault of whoever sent it.
var errOlder = errors.New("these metadata are not newer than those in force")

// acceptSet judges a set that somebody handed over. When it returns nil, the
// set is in force, durably.
func (a *Agent) acceptSet(raw []byte) error {
	set, err := trust.ParseSet(raw)
	if err != nil {
		return err
	}
	alone, err := trust.Verify(a.firstRoot, nil, set)
	if err != nil {
		return err
	}
	if n, found := trust.Conflict(a.trust, alone); found {
		a.keepEvidence(n, raw)
	}
	if alone.Digest() == a.trust.Digest() {
		return errOlder
	}
	next, err := trust.Verify(a.firstRoot, a.trust, set)
	if err != nil {
		return err
	}
	if !trust.Newer(a.trust, next) {
		a.alarm("two different sets of metadata have timestamp version %d: somebody signed twice from one state; the next one signed (`moult trust refresh`, any order) ends it", next.Versions().Timestamp)
		return errOlder
	}
	if err := a.saveTrust(next, raw); err != nil {
		return err
	}
	a.trust = next
	a.loadDocuments()
	if a.ring != nil {
		if err := a.ring.Announce(gossip.Hint{Timestamp: next.Versions().Timestamp, Digest: next.Digest()}); err != nil {
			a.log.Warn("announcement not sent, anti-entropy will spread the news", "err", err)
		}
	}
	return nil
}

// saveTrust makes a set, and the floor that it sets, durable.
func (a *Agent) saveTrust(v *trust.Verified, raw []byte) error {
	vs := v.Versions()
	ref, err := a.depot.PutBlob(raw) // it may be too long for a document
	if err != nil {
		return err
	}
	return a.store.Update(func(tx *store.Tx) error {
		if err := tx.Put(bucketTrust, keySet, []byte(ref.Digest.String())); err != nil {
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
}

// keepEvidence keeps one proof of a conflict, the same one on every peer that
// has seen the same proofs: of the highest release, with the least digest.
func (a *Agent) keepEvidence(n bundle.Version, raw []byte) {
	digest := bundle.Sum(raw)
	e := a.evidence
	if e.release > n || (e.release == n && string(e.digest[:]) <= string(digest[:]) && !e.digest.IsZero()) {
		return
	}
	a.evidence = evidence{release: n, set: raw, digest: digest}
	_, err := a.depot.PutBlob(raw)
	if err == nil {
		err = a.store.Put(bucketTrust, keyEvidence, []byte(digest.String()))
	}
	if err != nil {
		a.log.Error("evidence of a conflict is kept in memory only", "err", err)
	}
	a.alarm("release %d was signed twice with different content: it is frozen; publish a newer release, and ask who else holds the publisher's key", n)
}

// conflicted reports whether release n is frozen.
func (a *Agent) conflicted(n bundle.Version) bool {
	return !a.evidence.digest.IsZero() && a.evidence.release == n
}

// restoreTrust brings back what was in force before the restart.
func (a *Agent) restoreTrust() error {
	raw, ok, err := a.stored(keySet)
	if err != nil {
		return err
	}
	floor := a.store.Floor()
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
	if err := a.trust.CheckFloor(floorVersions(floor)); err != nil {
		// The database was lost: nothing older than the floor is accepted, and
		// peers bring what is newer.
		a.log.Warn("trust metadata are behind the floor, waiting for peers", "err", err)
	}
	if raw, ok, err := a.stored(keyEvidence); err != nil {
		return err
	} else if ok {
		a.restoreEvidence(raw)
	}
	a.loadDocuments()
	return nil
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

func (a *Agent) restoreEvidence(raw []byte) {
	set, err := trust.ParseSet(raw)
	if err != nil {
		return
	}
	v, err := trust.Verify(a.firstRoot, nil, set)
	if err != nil {
		return
	}
	if n, found := trust.Conflict(a.trust, v); found {
		a.keepEvidence(n, raw)
	}
}

func floorVersions(f store.Floor) trust.Versions {
	return trust.Versions{Root: f.Root, Timestamp: f.Timestamp, Snapshot: f.Snapshot, Targets: f.Targets, Operator: f.Operator}
}

// belowFloor reports that peers must first bring back metadata at least as new
// as those that this peer has already acted on (P2).
func (a *Agent) belowFloor() bool {
	return a.trust.CheckFloor(floorVersions(a.store.Floor())) != nil
}

// loadDocuments reads the documents that the metadata in force name, and
// begins to fetch those that are not here.
func (a *Agent) loadDocuments() {
	old := a.docs
	a.docs = documents{
		manifests: map[bundle.Version]*bundle.Manifest{}, orders: map[bundle.Version]*schedule.Order{},
		fetching: old.fetching,
	}
	for _, n := range a.trust.Releases() {
		ref, _ := a.trust.Release(n)
		if data, ok := a.blob(ref.Digest, ref.Length); ok {
			a.loadManifest(n, data)
		}
	}
	for _, n := range a.trust.Orders() {
		ref, _ := a.trust.Order(n)
		a.docs.orders[n] = old.orders[n] // until the newer one is here
		if data, ok := a.blob(ref.Digest, ref.Length); ok {
			a.loadOrder(n, data, old.orders[n])
		}
		if a.docs.orders[n] == nil {
			delete(a.docs.orders, n)
		}
	}
	for r := range a.view.All() {
		a.noteDone(r.Node, time.Now())
	}
	a.fetchDocuments()
}

// blob returns a document that is here, or notes that it is missing.
func (a *Agent) blob(d bundle.Digest, length int64) ([]byte, bool) {
	data, ok, err := a.depot.Blob(d)
	if err != nil {
		a.log.Warn("document unreadable, fetching it again", "digest", d.Short(), "err", err)
	}
	if !ok || err != nil {
		a.docs.missing = append(a.docs.missing, bundle.Chunk{Digest: d, Length: length})
		return nil, false
	}
	return data, true
}

func (a *Agent) loadManifest(n bundle.Version, data []byte) {
	m, err := bundle.ParseManifest(data)
	if err != nil {
		a.alarm("release %d is not understood here: %v", n, err)
		return
	}
	if m.Version != n {
		a.alarm("the manifest signed as release %d says that it is release %d", n, m.Version)
		return
	}
	a.docs.manifests[n] = m
	cu, ok := m.Classes[a.cfg.Class]
	if !ok {
		return
	}
	for _, s := range []bundle.Simulation{cu.Past, cu.Future} {
		if s.Kind == bundle.SimulateRules {
			a.blob(s.Rules.Digest, s.Rules.Length)
		}
	}
}

func (a *Agent) loadOrder(n bundle.Version, data []byte, old *schedule.Order) {
	o, err := schedule.ParseOrder(data)
	if err != nil {
		a.alarm("the rollout order of release %d is not understood here: %v", n, err)
		return
	}
	if o.Release != n {
		a.alarm("the rollout order signed for release %d says that it is for release %d", n, o.Release)
		return
	}
	if old != nil && old.Serial != o.Serial {
		if err := schedule.Successor(old, o); err != nil {
			a.alarm("rollout order %d of release %d is refused, order %d stays in force: %v", o.Serial, n, old.Serial, err)
			return
		}
	}
	a.docs.orders[n] = o
}

// fetchDocuments fetches what is missing, in the background, the newest first.
// A document that nobody has must not hold up the others: each is given some
// time, and the next tick begins again.
func (a *Agent) fetchDocuments() {
	if a.fetch == nil || a.docs.fetching || len(a.docs.missing) == 0 {
		return
	}
	a.docs.fetching = true
	missing := slices.Clone(a.docs.missing)
	slices.Reverse(missing)
	a.spawn(func() {
		var wg sync.WaitGroup
		for _, c := range missing[:min(len(missing), documentsAtOnce)] {
			wg.Go(func() {
				ctx, stop := a.untilStopped()
				defer stop()
				ctx, cancel := context.WithTimeout(ctx, documentTimeout)
				defer cancel()
				if err := a.fetchBlob(ctx, c); err != nil {
					a.log.Debug("document not fetched yet", "digest", c.Digest.Short(), "err", err)
					return
				}
				a.post(a.loadDocuments)
			})
		}
		wg.Wait()
		a.post(func() { a.docs.fetching = false })
	})
}

func (a *Agent) fetchBlob(ctx context.Context, c bundle.Chunk) error {
	data, err := a.fetch.FetchBlob(ctx, c)
	if err != nil {
		return err
	}
	_, err = a.depot.PutBlob(data)
	return err
}

// untilStopped returns a context that ends with the loop.
func (a *Agent) untilStopped() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-a.stopped:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// accept takes a set with its documents from an operator or a publisher.
func (a *Agent) accept(signed control.Signed) error {
	set, err := trust.ParseSet(signed.Set)
	if err != nil {
		return control.Refused(err, "")
	}
	v, err := trust.Verify(a.firstRoot, a.trust, set)
	if err != nil {
		return control.Refused(fmt.Errorf("signed metadata refused: %w", err), "")
	}
	for n, data := range signed.Orders {
		if err := a.checkOrder(v, n, data); err != nil {
			return control.Refused(err, "")
		}
	}
	for _, data := range signed.Orders {
		if _, err := a.depot.PutBlob(data); err != nil {
			return err
		}
	}
	if err := a.acceptSet(signed.Set); err != nil {
		return control.Refused(err, "another operator may have signed something in between: try again")
	}
	return nil
}

// checkOrder checks a handed-over rollout order before anything is stored.
func (a *Agent) checkOrder(v *trust.Verified, n bundle.Version, data []byte) error {
	ref, ok := v.Order(n)
	if !ok || ref.Digest != bundle.Sum(data) {
		return fmt.Errorf("rollout order of release %d: the signed metadata name another document", n)
	}
	o, err := schedule.ParseOrder(data)
	if err != nil {
		return err
	}
	if old := a.docs.orders[n]; old != nil && old.Serial != o.Serial {
		if err := schedule.Successor(old, o); err != nil {
			return err
		}
	}
	return nil
}
