package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"moult/agent/schedule"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// documents are the verified manifests and rollout orders that the metadata
// in force name and that have arrived.
type documents struct {
	manifests map[bundle.Version]*bundle.Manifest
	read      map[bundle.Version]bundle.Digest // of these manifests
	orders    map[bundle.Version]*schedule.Order
	// bound has the digest of every order that this peer has taken, durably.
	// An order is never replaced but by its successor, also where a restart or
	// a lost document lies between.
	bound   map[bundle.Version]bundle.Digest
	missing []bundle.Chunk
	rounds
}

// loadDocuments reads the documents that the metadata in force name, and
// begins to fetch those that are not here. What was read before stays.
func (a *Agent) loadDocuments() {
	old := a.docs
	a.docs = documents{
		manifests: map[bundle.Version]*bundle.Manifest{}, read: map[bundle.Version]bundle.Digest{},
		orders: map[bundle.Version]*schedule.Order{}, bound: map[bundle.Version]bundle.Digest{},
		rounds: old.rounds,
	}
	maps.Copy(a.docs.bound, old.bound)
	for _, n := range a.trust.Releases() {
		a.loadManifest(n, old)
	}
	for _, n := range a.trust.Orders() { // rising: each is compared with the one before
		a.loadOrder(n, old.orders[n])
	}
	if len(a.docs.orders) > len(old.orders) {
		for r := range a.view.All() {
			a.noteDone(r.Node, time.Now())
		}
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

// hold notes that a document is missing where it has left the disk: peers may
// want it, and so may this peer after a restart.
func (a *Agent) hold(d bundle.Digest, length int64) {
	if !a.depot.HasBlob(d) {
		a.docs.missing = append(a.docs.missing, bundle.Chunk{Digest: d, Length: length})
	}
}

// loadManifest reads the manifest of release n, unless old has it.
func (a *Agent) loadManifest(n bundle.Version, old documents) {
	ref, _ := a.trust.Release(n)
	m, look := old.manifests[n], a.hold
	if m == nil || old.read[n] != ref.Digest {
		data, ok := a.blob(ref.Digest, ref.Length)
		if !ok {
			return
		}
		var err error
		if m, err = bundle.ParseManifest(data); err != nil {
			a.alarm("release %d is not understood here: %v", n, err)
			return
		}
		look = func(d bundle.Digest, length int64) { a.blob(d, length) }
	} else {
		a.hold(ref.Digest, ref.Length)
	}
	if m.Version != n {
		a.alarm("the manifest signed as release %d says that it is release %d", n, m.Version)
		return
	}
	a.docs.manifests[n], a.docs.read[n] = m, ref.Digest
	cu := m.Classes[a.cfg.Class]
	for _, s := range []bundle.Simulation{cu.Past, cu.Future} {
		if blob, ok := s.Blob(); ok {
			look(blob.Digest, blob.Length)
		}
	}
}

// loadOrder takes the order that the metadata name for release n, if it may
// follow the one in force here; old is that one, nil where it was not read yet.
func (a *Agent) loadOrder(n bundle.Version, old *schedule.Order) {
	ref, _ := a.trust.Order(n)
	bound, taken := a.docs.bound[n]
	if taken && old == nil && bound != ref.Digest {
		var ok bool
		if old, ok = a.readBound(n, bound); !ok {
			return
		}
	}
	if old != nil {
		a.docs.orders[n] = old // until the newer one is here
		if bound == ref.Digest {
			a.hold(ref.Digest, ref.Length)
			return
		}
	}
	data, ok := a.blob(ref.Digest, ref.Length)
	if !ok {
		return
	}
	o, err := a.judgeOrder(a.trust, n, data)
	if err != nil {
		a.alarm("%v", err)
		return
	}
	if bound != ref.Digest {
		if err := a.store.Put(bucketOrders, versionKey(n), []byte(ref.Digest.String())); err != nil {
			a.log.Error("a rollout order cannot be made durable, so it is not in force", "release", n, "serial", o.Serial, "err", err)
			return
		}
	}
	a.docs.orders[n], a.docs.bound[n] = o, ref.Digest
}

// readBound reads the order that was in force before the restart. It reports
// false where nothing may take that order's place now; true without an order
// where it is lost for good, as when the whole database is.
func (a *Agent) readBound(n bundle.Version, digest bundle.Digest) (*schedule.Order, bool) {
	data, ok, err := a.depot.Blob(digest)
	if err != nil {
		a.log.Warn("the rollout order in force is unreadable, so no newer one takes its place yet", "release", n, "err", err)
		return nil, false
	}
	if !ok {
		a.log.Warn("the rollout order in force is lost: the newer one cannot be compared with it", "release", n, "digest", digest.Short())
		delete(a.docs.bound, n)
		return nil, true
	}
	o, err := schedule.ParseOrder(data)
	if err != nil {
		a.alarm("the rollout order of release %d that is in force is not understood here: %v", n, err)
		return nil, false
	}
	return o, true
}

// checkOrder checks a handed-over rollout order before anything is stored.
func (a *Agent) checkOrder(v *trust.Verified, n bundle.Version, data []byte) error {
	ref, ok := v.Order(n)
	if !ok || ref.Digest != bundle.Sum(data) {
		return fmt.Errorf("rollout order of release %d: the signed metadata name another document", n)
	}
	_, err := a.judgeOrder(v, n, data)
	return err
}

// judgeOrder reads the order that v names for release n and reports why it
// must not come into force. The proof that the budget holds rests on orders
// that form one line (package schedule), so each peer that sees both ends of a
// step of that line checks it.
func (a *Agent) judgeOrder(v *trust.Verified, n bundle.Version, data []byte) (*schedule.Order, error) {
	o, err := schedule.ParseOrder(data)
	if err != nil {
		return nil, fmt.Errorf("the rollout order of release %d is not understood here: %w", n, err)
	}
	if o.Release != n {
		return nil, fmt.Errorf("the rollout order signed for release %d says that it is for release %d: sign it again", n, o.Release)
	}
	digest := bundle.Sum(data)
	if a.docs.bound[n] == digest {
		return o, nil // judged before
	}
	if ref, _ := v.Release(n); o.Manifest != ref.Digest {
		return nil, fmt.Errorf("rollout order %d of release %d is refused: it is for manifest %s, and that of the release is %s: publish the next release, and sign an order for that",
			o.Serial, n, o.Manifest.Short(), ref.Digest.Short())
	}
	old := a.docs.orders[n]
	if old == nil {
		return o, a.checkFirst(v, o)
	}
	if old.Serial == o.Serial {
		return nil, fmt.Errorf("two rollout orders of release %d have serial %d: %s is in force here and %s is refused; the next change of the one in force (`moult pause`, say) ends it",
			n, o.Serial, a.docs.bound[n].Short(), digest.Short())
	}
	if err := schedule.Successor(old, o); err != nil {
		return nil, fmt.Errorf("rollout order %d of release %d is refused, order %d stays in force: %w", o.Serial, n, old.Serial, err)
	}
	return o, nil
}

// checkFirst checks the first order of a release that this peer sees against
// the order of the release before.
func (a *Agent) checkFirst(v *trust.Verified, o *schedule.Order) error {
	want := greatestBelow(v.Orders(), o.Release)
	if o.Previous != want {
		return fmt.Errorf("rollout order %d of release %d is refused: it says that it comes after the order of release %d, and the one before is that of release %d; publish the next release, and inject it with the newest metadata",
			o.Serial, o.Release, o.Previous, want)
	}
	previous := a.docs.orders[want]
	if want == 0 || previous == nil {
		return nil // nothing here to compare it with
	}
	if err := schedule.Follows(previous, o); err != nil {
		return fmt.Errorf("rollout order %d of release %d is refused; `moult retry` with each node that it leaves out mends it: %w", o.Serial, o.Release, err)
	}
	return nil
}

// orderPending reports that the metadata in force name another order for
// release n than the one at hand: the newer one binds, so nothing may be done
// by the older one until that is here.
func (a *Agent) orderPending(n bundle.Version) bool {
	ref, ok := a.trust.Order(n)
	return ok && (a.docs.orders[n] == nil || a.docs.bound[n] != ref.Digest)
}

// boundOrders lists the documents of the orders in force here, which the
// metadata in force need not name any more.
func (a *Agent) boundOrders() []bundle.Digest {
	return slices.Collect(maps.Values(a.docs.bound))
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

// begin begins a round and returns the documents that it asks for: the newest
// first, and where there are too many for one round, others in the next, for a
// document that nobody has must not hold up the rest.
func (r *rounds) begin(missing []bundle.Chunk) []bundle.Chunk {
	r.fetching = true
	turn := slices.Clone(missing)
	slices.Reverse(turn)
	if len(turn) > documentsAtOnce {
		i := r.begun * documentsAtOnce % len(turn)
		turn = append(turn[i:], turn[:i]...)[:documentsAtOnce]
	}
	r.begun++
	return turn
}

// end ends a round. One that brought nothing is followed by a pause that grows.
func (r *rounds) end(now time.Time, got int) {
	r.fetching = false
	if got > 0 {
		r.hurry()
		return
	}
	r.pause = min(max(2*r.pause, minPause), maxPause)
	r.next = now.Add(r.pause)
}

// hurry ends the pause: there is something new to ask for.
func (r *rounds) hurry() { r.begun, r.pause, r.next = 0, 0, time.Time{} }

// fetchDocuments fetches what is missing, in the background. Each document is
// given some time; the loop calls it again and again.
func (a *Agent) fetchDocuments() {
	if a.fetch == nil || len(a.docs.missing) == 0 || !a.docs.rounds.due(time.Now()) {
		return
	}
	turn := a.docs.rounds.begin(a.docs.missing)
	a.spawn(func() {
		var wg sync.WaitGroup
		var got atomic.Int64
		for _, c := range turn {
			wg.Go(func() {
				ctx, stop := a.untilStopped()
				defer stop()
				ctx, cancel := context.WithTimeout(ctx, documentTimeout)
				defer cancel()
				if err := a.fetchBlob(ctx, c); err != nil {
					a.log.Debug("document not fetched yet", "digest", c.Digest.Short(), "err", err)
					return
				}
				got.Add(1)
				a.post(a.loadDocuments)
			})
		}
		wg.Wait()
		a.post(func() {
			a.docs.rounds.end(time.Now(), int(got.Load()))
			a.fetchDocuments()
		})
	})
}

// fetchBlob gets a document that may have come another way meanwhile.
func (a *Agent) fetchBlob(ctx context.Context, c bundle.Chunk) error {
	if _, ok, err := a.depot.Blob(c.Digest); ok && err == nil {
		return nil
	}
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
