package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	"moult/agent/node"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store"
	"moult/store/bundle"
	"moult/transforms"
)

// step tells the node what has happened; what follows is done by flush.
func (a *Agent) step(e node.Event) { a.node.Step(time.Now(), e) }

// settle does all that follows from what has happened, until nothing does.
func (a *Agent) settle() {
	a.flush()
	if a.broken != nil {
		return
	}
	a.route()
	a.noteAddresses()
	a.flush()
}

// noteAddresses tells the node where it and its services are reached.
func (a *Agent) noteAddresses() {
	if a.ring != nil && a.layer != nil { // else nobody is told
		a.step(node.Addresses{Addr: a.ring.Addr(), Services: a.addresses()})
	}
}

// flush carries out what the node wants, until that is nothing.
func (a *Agent) flush() {
	for a.broken == nil {
		r := a.node.Ready()
		if r.Empty() {
			a.noteEnrolled()
			return
		}
		if a.saveFirst(r.Save) {
			a.carryOut(r)
		}
	}
}

// saveFirst makes durable what must be before anything else is done. It reports
// whether it is.
func (a *Agent) saveFirst(s *node.Save) bool {
	if s == nil {
		return true
	}
	trusted, err := a.keepSets(*s)
	fatal := err == nil // after a failed write the store takes no other until it is opened again
	if err == nil {
		err = a.save(*s, trusted)
	}
	switch {
	case err == nil:
		return true
	case !fatal || errors.Is(err, store.ErrNoSpace):
		a.noSave.Log(a.log, slog.LevelError, "the journal waits for a disk that takes it", "err", err)
		a.node.Refused("nothing can be written: " + err.Error())
	default:
		a.broken = err // what is on disk is what the next agent goes on from
	}
	return false
}

// carryOut does what a Ready says, once its Save is durable.
func (a *Agent) carryOut(r node.Ready) {
	for _, text := range r.Raised {
		a.log.Error("alarm", "text", text)
	}
	for _, id := range r.Dropped {
		a.dirty[id] = true
		a.noteName(id)
	}
	if r.Save != nil && r.Save.Answering != nil {
		a.noteAnswering(*r.Save.Answering)
	}
	if r.Route != nil {
		a.answer(*r.Route)
	}
	if r.Save != nil && r.Save.State != nil {
		a.noteSaved(*r.Save.State)
	}
	if r.Directory != nil {
		a.guide(r.Directory)
	}
	if r.Gate != nil || r.Route != nil {
		a.route()
	}
	var answers []node.Event
	if r.Tell != nil {
		answers = append(answers, a.publish(*r.Tell)...)
	}
	for _, action := range r.Actions {
		a.start(action)
	}
	for _, doc := range r.Read {
		answers = append(answers, a.read(doc))
	}
	a.fetchDocuments(r.Fetch)
	if r.Check != nil {
		a.check(*r.Check)
	}
	a.node.Advance(r)
	for _, e := range answers {
		a.step(e)
	}
}

// keepSets keeps the sets that a Save names as blobs: they may be too long for
// documents. It returns the digest of each blob by its key.
func (a *Agent) keepSets(s node.Save) (map[string]bundle.Digest, error) {
	trusted := map[string]bundle.Digest{}
	for key, digest := range map[string]bundle.Digest{keySet: s.Metadata, keyEvidence: s.Evidence} {
		if digest.IsZero() {
			continue
		}
		raw, err := a.sets[digest].Set().Marshal()
		if err != nil {
			return nil, err
		}
		ref, err := a.depot.PutBlob(raw)
		switch {
		case err != nil && key == keyEvidence:
			a.log.Error("the evidence of a conflict is kept in memory only, until there is room", "err", err)
			a.unkept = true
			continue
		case err != nil:
			return nil, err
		}
		trusted[key] = ref.Digest
	}
	return trusted, nil
}

// keepEvidence stores the evidence of a conflict where that failed before.
func (a *Agent) keepEvidence() {
	evidence := a.sets[a.node.Evidence().Digest]
	if !a.unkept || evidence == nil || a.node.Refusing() {
		return
	}
	raw, err := evidence.Set().Marshal()
	if err == nil {
		var ref bundle.Chunk
		if ref, err = a.depot.PutBlob(raw); err == nil {
			err = a.store.Put(bucketTrust, keyEvidence, []byte(ref.Digest.String()))
		}
	}
	if err != nil {
		a.log.Debug("the evidence of a conflict is still kept in memory only", "err", err)
		return
	}
	a.unkept = false
}

// save makes a Save durable: all of it or nothing.
func (a *Agent) save(s node.Save, trusted map[string]bundle.Digest) error {
	if s.State == nil && s.Answering == nil && len(trusted)+len(s.Frozen)+len(s.Bound) == 0 {
		return a.store.Raise(func(f *store.Floor) { raise(f, s.Floor) })
	}
	frozen, bound := byKey(s.Frozen), byKey(s.Bound)
	if err := errors.Join(a.spill(bucketFrozen, frozen), a.spill(bucketOrders, bound)); err != nil {
		return err
	}
	return a.store.Update(func(tx *store.Tx) error {
		return errors.Join(
			putState(tx, s.State),
			putAnswering(tx, s.Answering),
			putDigests(tx, bucketTrust, trusted),
			putDigests(tx, bucketFrozen, frozen),
			putDigests(tx, bucketOrders, bound),
			appendTrust(tx, s.Metadata),
			tx.Raise(func(f *store.Floor) { raise(f, s.Floor) }),
		)
	})
}

// spill writes, and takes out of all, what is too much for one batch. It is what keeps
// the node from doing things, so it may be durable before the rest.
func (a *Agent) spill(bucket string, all map[string]bundle.Digest) error {
	for len(all) > digestsPerBatch {
		part := map[string]bundle.Digest{}
		for key, d := range all {
			if len(part) == digestsPerBatch {
				break
			}
			part[key] = d
			delete(all, key)
		}
		if err := a.store.Update(func(tx *store.Tx) error { return putDigests(tx, bucket, part) }); err != nil {
			return err
		}
	}
	return nil
}

func putState(tx *store.Tx, s *upgrade.State) error {
	if s == nil {
		return nil
	}
	data, err := s.Marshal()
	if err != nil {
		return err
	}
	if _, err := tx.Append(journalUpgrade, data); err != nil {
		return err
	}
	return tx.Put(bucketMachine, keyState, data)
}

func appendTrust(tx *store.Tx, digest bundle.Digest) error {
	if digest.IsZero() {
		return nil
	}
	_, err := tx.Append(journalTrust, []byte(digest.String()))
	return err
}

func putDigests(tx *store.Tx, bucket string, digests map[string]bundle.Digest) error {
	for key, d := range digests {
		put := func() error { return tx.Put(bucket, key, []byte(d.String())) }
		if d.IsZero() {
			put = func() error { return tx.Delete(bucket, key) }
		}
		if err := put(); err != nil {
			return err
		}
	}
	return nil
}

func byKey(digests map[bundle.Version]bundle.Digest) map[string]bundle.Digest {
	m := map[string]bundle.Digest{}
	for v, d := range digests {
		m[strconv.FormatUint(uint64(v), 10)] = d
	}
	return m
}

// raise puts into the floor what must survive even the loss of the database.
func raise(f *store.Floor, by *node.Floor) {
	if by == nil {
		return
	}
	f.Release, f.Root, f.Timestamp = by.Release, by.Root, by.Timestamp
	f.Snapshot, f.Targets, f.Operator, f.Expired = by.Snapshot, by.Targets, by.Operator, by.Expired
	f.Members = by.Members
	f.Settled, f.Obeys = by.Promises.Settled, by.Promises.Obeys
	f.EndedRelease, f.EndedCount = by.Promises.EndedRelease, by.Promises.EndedCount
	f.RecordSeq = by.Numbers
}

// noteSaved goes on from a state that has just become durable.
func (a *Agent) noteSaved(s upgrade.State) {
	if before := a.saved; s.Phase != before.Phase {
		a.log.Info("phase", "from", before.Phase, "to", s.Phase, "version", s.Version, "goal", s.Goal, "reason", s.Reason)
	}
	if s.Phase != a.saved.Phase {
		a.measureCopy(s)
	}
	if s.Step != a.saved.Step && a.cancel != nil {
		a.cancel()
	}
	a.saved = s
	a.fail.reach(s.Phase, "saved")
	a.route()
	a.noteAddresses() // the record of this state has them
}

// publish signs this node's record and passes it on.
func (a *Agent) publish(r view.Record) []node.Event {
	signed, err := view.Sign(a.key, r)
	if err != nil {
		a.log.Error("status not published", "err", err)
		return nil
	}
	if a.ring != nil {
		a.ring.Rumour(signed)
	}
	a.dirty[a.id] = true
	return []node.Event{node.Told{Record: signed}}
}

// addresses says where the services are reached.
func (a *Agent) addresses() map[string]view.ServiceAddr {
	all := map[string]view.ServiceAddr{}
	for name, addr := range a.layer.Addresses() {
		all[name] = view.ServiceAddr{
			Public: addr.Public, Versions: maps.Clone(addr.Versions),
			Attach: a.wayOf(name).Kind, Egress: a.ways.Egress.Kind, Protocol: a.answers.Protocols[name],
		}
	}
	return all
}

// check looks, beside the loop, whether the software is whole and the disk has
// room for the new slots: what can fail should fail while the node serves, and what
// takes time be done.
func (a *Agent) check(c node.Check) {
	old, measured := a.slots.Path(c.Running), a.copyMeasured
	a.spawn(func() {
		ctx, cancel := a.untilStopped()
		defer cancel()
		err := a.fetchPath(ctx, c.Path) // fetches again what the disk has lost
		if err == nil {
			err = a.spaceFor(old, c.Path)
		}
		if err == nil {
			err = a.keepsState(old, c.Path)
		}
		if err == nil && len(c.Path) > 0 {
			err = a.fits(c.Path[len(c.Path)-1])
		}
		ended := node.CheckEnded{Step: c.Step}
		if err != nil {
			ended.Problem = err.Error()
		} else {
			a.compileAhead(ctx, c.Path)
		}
		if measured != nil {
			<-measured // for its warning to come before the node goes down
		}
		a.post(func() { a.step(ended) })
	})
}

// spaceFor checks that the disk has room for slots like the old one, one for each
// version of a path.
func (a *Agent) spaceFor(old string, path []bundle.Version) error {
	var given []string
	for _, v := range path {
		if state := a.slots.Objects().FutureState(v); state != "" {
			given = append(given, state)
		}
	}
	need, err := transforms.NeedBytes(old, given...)
	if err != nil {
		return err
	}
	return a.store.CheckSpace(need*int64(len(path)) + spareDisk)
}

// keepsState checks that the first transform of a path, where it is a copy, will have all
// that the old slot has: after it the node is down.
func (a *Agent) keepsState(old string, path []bundle.Version) (err error) {
	var cu bundle.ClassUpgrade
	if len(path) == 0 || !a.ask(func() { cu, err = a.classUpgrade(path[0]) }) || err != nil || !cu.Copies() {
		return err
	}
	if err := transforms.Keepable(old); err != nil {
		return fmt.Errorf("release %d copies the state: %w", path[0], err)
	}
	return nil
}

// measureCopy measures, beside the loop, how long a copy of the state takes, where the way
// that the node is to go has one: while it waits for its turn there is time to do something
// about it.
func (a *Agent) measureCopy(s upgrade.State) {
	copies := func(v bundle.Version) bool {
		cu, err := a.classUpgrade(v)
		return err == nil && cu.Copies()
	}
	if s.Phase != upgrade.Waiting || !slices.ContainsFunc(s.Path, copies) {
		return
	}
	done := make(chan struct{})
	a.copyMeasured = done
	a.spawn(func() {
		defer close(done)
		ctx, cancel := a.untilStopped()
		defer cancel()
		e, err := a.slots.EstimateCopy(ctx, s.Running)
		if err != nil {
			a.log.Info("not known how long the copy of the state will take", "err", err)
			return
		}
		measured := node.Copies{Version: s.Running, Files: e.Files, Bytes: e.Bytes, Takes: e.Takes}
		a.post(func() { a.step(node.CopyMeasured{Copies: measured}) })
	})
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
