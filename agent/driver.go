package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"moult/agent/home"
	"moult/agent/node"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store"
	"moult/store/bundle"
	"moult/transforms"
)

// step tells the node what has happened; what follows is done by flush.
func (l *loop) step(e node.Event) { l.node.Step(time.Now(), e) }

// proceed does all that follows from what has happened, until nothing does.
func (l *loop) proceed() {
	l.flush()
	if l.broken != nil {
		return
	}
	l.route()
	l.noteAddresses()
	l.flush()
	l.sample()
}

// noteAddresses tells the node where it and its services are reached.
func (l *loop) noteAddresses() {
	l.step(node.Addresses{Addr: l.ring.Addr(), Services: l.addresses()})
}

// flush carries out what the node wants, until that is nothing.
func (l *loop) flush() {
	for l.broken == nil {
		r := l.node.Ready()
		if r.Empty() {
			l.noteEnrolled()
			return
		}
		if l.saveFirst(r.Save) {
			l.carryOut(r)
		}
	}
}

// saveFirst makes durable what must be before anything else is done. It reports
// whether it is.
func (l *loop) saveFirst(s *node.Save) bool {
	if s == nil {
		return true
	}
	beside, err := l.keepSets(*s)
	fatal := err == nil // after a failed write the store takes no other until it is opened again
	if err == nil {
		err = l.Save(*s, l.besides(*s, beside))
	}
	switch {
	case err == nil:
		if !s.Metadata.IsZero() {
			l.signed = nil
		}
		return true
	case !fatal || errors.Is(err, store.ErrNoSpace):
		l.noSave.Log(l.log, slog.LevelError, "the journal waits until the disk takes writes", "err", err)
		l.node.Refused("nothing can be written: " + err.Error())
	default:
		l.broken = err // what is on disk is what the next agent goes on from
	}
	return false
}

// carryOut does what a Ready says, once its Save is durable.
func (l *loop) carryOut(r node.Ready) {
	for _, text := range r.Raised {
		l.log.Error("alarm", "text", text)
	}
	for _, id := range r.Dropped {
		l.dirty[id] = true
		l.noteName(id)
	}
	if r.Save != nil && r.Save.Answering != nil {
		l.noteAnswering(*r.Save.Answering)
	}
	if r.Route != nil {
		l.takeRoute(*r.Route)
	}
	if r.Save != nil && r.Save.State != nil {
		l.noteSaved(*r.Save.State)
	}
	if r.Directory != nil {
		l.takeDirectory(r.Directory)
	}
	if r.Gate != nil || r.Route != nil {
		l.route()
	}
	var answers []node.Event
	if r.Tell != nil {
		answers = append(answers, l.publish(*r.Tell)...)
	}
	for _, action := range r.Actions {
		l.start(action)
	}
	for _, doc := range r.Read {
		answers = append(answers, l.read(doc))
	}
	l.fetchDocuments(r.Fetch)
	if r.Check != nil {
		l.check(*r.Check)
	}
	if r.Agent != nil {
		l.followAgent(*r.Agent)
	}
	l.node.Advance(r)
	for _, e := range answers {
		l.step(e)
	}
}

// keepSets keeps the sets that a Save names as blobs.
func (l *loop) keepSets(s node.Save) (sets home.Beside, err error) {
	if !s.Metadata.IsZero() {
		if sets.InForce, err = l.PutSet(l.sets[s.Metadata]); err != nil {
			return sets, err
		}
	}
	if !s.Evidence.IsZero() {
		if sets.Evidence, err = l.PutSet(l.sets[s.Evidence]); err != nil {
			l.log.Error("the evidence of a conflict is kept in memory only, until there is room", "err", err)
			l.unkept = true
		}
	}
	return sets, nil
}

// besides adds to a Save what its history tells.
func (l *loop) besides(s node.Save, b home.Beside) home.Beside {
	if !s.Metadata.IsZero() {
		b.Signed = l.signed
	}
	if s.State != nil && failed(l.saved.Phase, s.State.Phase) {
		b.Log = l.soft.LastLines(logLines)
	}
	return b
}

// failed reports whether a node goes from one phase to another because of its software, which
// was up then, or was to be.
func failed(from, to upgrade.Phase) bool {
	switch from {
	case upgrade.Starting, upgrade.Probing, upgrade.Settled, upgrade.Current:
		return to == upgrade.RollingBack || to == upgrade.Held
	}
	return false
}

// keepEvidence stores the evidence of a conflict where that failed before.
func (l *loop) keepEvidence() {
	evidence := l.sets[l.node.Evidence().Digest]
	if !l.unkept || evidence == nil || l.node.Refusing() {
		return
	}
	blob, err := l.PutSet(evidence)
	if err == nil {
		err = l.SaveEvidence(blob)
	}
	if err != nil {
		l.log.Debug("the evidence of a conflict is still kept in memory only", "err", err)
		return
	}
	l.unkept = false
}

// noteSaved goes on from a state that has just become durable.
func (l *loop) noteSaved(s upgrade.State) {
	if before := l.saved; s.Phase != before.Phase {
		l.log.Info("phase", "from", before.Phase, "to", s.Phase, "version", s.Version, "goal", s.Goal, "reason", s.Reason)
	}
	if s.Phase != l.saved.Phase {
		l.measureCopy(s)
	}
	if s.Step != l.saved.Step && l.cancel != nil {
		l.cancel()
	}
	l.saved = s
	l.fail.reach(s.Phase, "saved")
	l.route()
	l.noteAddresses() // the record of this state has them
}

// publish signs this node's record and passes it on.
func (l *loop) publish(r view.Record) []node.Event {
	l.keepMarks()
	signed, err := view.Sign(l.Key, r)
	if err != nil {
		l.log.Error("status not published", "err", err)
		return nil
	}
	l.ring.Rumour(signed)
	l.dirty[l.ID] = true
	return []node.Event{node.Told{Record: signed}}
}

// addresses says where the services are reached.
func (l *loop) addresses() map[string]view.ServiceAddr {
	all := map[string]view.ServiceAddr{}
	for name, addr := range l.layer.Addresses() {
		all[name] = view.ServiceAddr{
			Public: addr.Public, Versions: maps.Clone(addr.Versions),
			Attach: l.wayOf(name).Kind, Egress: l.ways.Egress.Kind, Protocol: l.answering.Protocols[name],
		}
	}
	return all
}

// check looks, beside the loop, whether the software is whole and the disk has
// room for the new slots: what can fail should fail while the node serves, and what
// takes time be done.
func (l *loop) check(c node.Check) {
	a, measured := l.Agent, l.copyMeasured
	a.spawn(func() {
		ctx, cancel := a.untilStopped()
		defer cancel()
		ended := node.CheckEnded{Step: c.Step}
		if err := a.checkPath(ctx, c.Running, c.Path); err != nil {
			ended.Problem = err.Error()
		} else if len(c.Path) > 0 && c.Path[0] > c.Running {
			a.compileAhead(ctx, c.Path)
		}
		if measured != nil {
			<-measured // for its warning to come before the node goes down
		}
		a.tell(ended)
	})
}

// checkPath reports what would fail on the way to the last release of a path.
func (a *Agent) checkPath(ctx context.Context, running bundle.Version, path []bundle.Version) error {
	old := a.Slots.Path(running)
	if err := a.fetchPath(ctx, path); err != nil { // it fetches again what the disk has lost
		return err
	}
	if err := a.SpaceFor(running, path); err != nil || len(path) == 0 {
		return err
	}
	way := path // whose transforms run
	if path[0] < running {
		way = []bundle.Version{running}
	}
	if err := errors.Join(a.keepsState(old, running, way[0]), a.Slots.Ownable(running)); err != nil {
		return err
	}
	for _, v := range way {
		cu, err := ask(a, &classUpgradeWanted{release: v})
		if err == nil {
			err = transforms.CanLimit(cu.Transform, a.Account)
		}
		if err != nil {
			return fmt.Errorf("release %d: %w", v, err)
		}
	}
	return a.fits(path[len(path)-1])
}

// keepsState checks that the transform of a release, or its reverse where that is what runs,
// will have all that the old slot has, where it is a copy: after it the node is down.
func (a *Agent) keepsState(old string, running, release bundle.Version) error {
	cu, err := ask(a, &classUpgradeWanted{release: release})
	if err != nil {
		return err
	}
	copies := cu.Copies()
	if r := cu.Transform.Reverse; release == running && r != nil {
		copies = len(r.Exec) == 0
	}
	if !copies {
		return nil
	}
	if err := transforms.Keepable(old); err != nil {
		return fmt.Errorf("release %d copies the state: %w", release, err)
	}
	return nil
}

// measureCopy measures, beside the loop, how long a copy of the state takes, where the way
// that the node is to go has one: while it waits for its turn there is time to do something
// about it.
func (l *loop) measureCopy(s upgrade.State) {
	copies := func(v bundle.Version) bool {
		cu, err := l.classUpgrade(v)
		return err == nil && cu.Copies()
	}
	if s.Phase != upgrade.Waiting || s.Reverts != 0 || !slices.ContainsFunc(s.Path, copies) {
		return
	}
	measured := make(chan struct{})
	l.copyMeasured = measured
	a := l.Agent
	a.spawn(func() {
		defer close(measured)
		ctx, cancel := a.untilStopped()
		defer cancel()
		e, err := a.Slots.EstimateCopy(ctx, s.Running)
		if err != nil {
			a.log.Info("not known how long the copy of the state will take", "err", err)
			return
		}
		a.tell(node.CopyMeasured{Copies: upgrade.Copies{Version: s.Running, Files: e.Files, Bytes: e.Bytes, Takes: e.Takes}})
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
