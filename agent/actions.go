package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"moult/agent/control"
	"moult/agent/node"
	"moult/agent/software"
	"moult/agent/upgrade"
	"moult/store/bundle"
	"moult/transforms"
)

// start begins one action. At most one action with an answer is under way: a
// newer one ends the older, and waits until it has returned.
func (l *loop) start(action upgrade.Action) {
	if run, ok := action.(upgrade.Run); ok {
		l.keepUp(run.Version)
		return
	}
	if l.cancel != nil {
		l.cancel()
	}
	before, ended := []<-chan struct{}{l.running}, make(chan struct{})
	if _, ok := action.(upgrade.Finish); !ok { // which is in nobody's way
		l.demanded.give(control.Refused(fmt.Errorf("this node goes on with a rollout (%s), so the rehearsal is given up", l.saved.Phase), afterRollout))
		before = append(before, l.demanded.ended)
	}
	if _, ok := action.(upgrade.Settle); ok {
		l.sweep(l.saved)
	}
	a, s := l.Agent, l.saved
	ctx, cancel := a.untilStopped()
	l.cancel, l.running = cancel, ended
	a.spawn(func() {
		defer close(ended)
		defer cancel()
		for _, one := range before {
			if one != nil {
				<-one
			}
		}
		outcome := a.perform(ctx, action, s)
		if ctx.Err() != nil {
			return
		}
		a.fail.reach(s.Phase, "done")
		a.tell(node.ActionEnded{Answer: outcome})
	})
}

// keepUp has the software of v kept up. Where its admission was recorded and
// its slot not yet made the current one, that is done first: what it serves is
// what a lost database must be restored to.
func (l *loop) keepUp(v bundle.Version) {
	if current, ok, err := l.Slots.Current(); (err != nil || !ok || current != v) && l.Slots.Exists(v) {
		if err := l.Slots.Switch(v); err != nil {
			l.alarm("the current slot is not the one that serves: %v", err)
		}
	}
	l.soft.Keep(v)
}

// final marks an error that trying again cannot mend.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// insist does f until it succeeds, fails for good, or ctx ends, with growing
// pauses; meanwhile the node's record says what the trouble is.
func (a *Agent) insist(ctx context.Context, what string, f func() error) error {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		err := f()
		if _, done := errors.AsType[final](err); err == nil || done || ctx.Err() != nil {
			return err
		}
		a.log.Warn(what+" failed, trying again", "in", pause, "err", err)
		a.send(troubled{action: ctx, text: what + ": " + err.Error()})
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// perform carries out an action, which began in state s, and returns what ends it.
func (a *Agent) perform(ctx context.Context, action upgrade.Action, s upgrade.State) upgrade.Event {
	switch x := action.(type) {
	case upgrade.Fetch:
		err := a.insist(ctx, "fetch", func() error { return a.fetchPath(ctx, x.Path) })
		return outcome(x.Step, err, upgrade.Staged{Step: x.Step})
	case upgrade.Rehearse:
		return a.perhapsRehearse(ctx, x)
	case upgrade.Drain:
		err := a.insist(ctx, "drain", func() error {
			if err := a.mayStop(ctx, s); err != nil {
				return err
			}
			return a.drain(ctx, s.Path)
		})
		return outcome(x.Step, err, upgrade.Drained{Step: x.Step})
	case upgrade.Transform:
		return outcome(x.Step, a.transform(ctx, x), upgrade.Transformed{Step: x.Step, To: x.To})
	case upgrade.Launch:
		err := a.launch(ctx, x.Version)
		if err == nil {
			err = a.soft.PostStart(ctx, x.Version)
		}
		return outcome(x.Step, err, upgrade.Ready{Step: x.Step})
	case upgrade.Admit:
		return outcome(x.Step, a.admit(ctx, x.Version), upgrade.Admitted{Step: x.Step})
	case upgrade.Probe:
		return outcome(x.Step, a.soft.Probe(ctx, x.Version), upgrade.Healthy{Step: x.Step})
	case upgrade.Settle:
		a.RemoveOldSlots(s.Running, false)
		a.RemoveFutureStates(s)
		return upgrade.Recorded{Step: x.Step}
	case upgrade.Finish:
		err := a.insist(ctx, "finalize", func() error { return a.finish(ctx, x.Version) })
		return outcome(x.Step, err, upgrade.Finalized{Step: x.Step})
	case upgrade.Rollback:
		// The attempt counts as ended, and others go on, only when the old
		// software is up again.
		back := upgrade.RolledBack{Step: x.Step}
		err := a.insist(ctx, "roll back", func() (err error) {
			back.Reason, err = a.rollBack(ctx, x, s.Path)
			return err
		})
		return outcome(x.Step, err, back)
	}
	panic(fmt.Sprintf("agent: unknown action %T", action))
}

// finish tells the software that its release will not be taken back, and gives up its old slots.
func (a *Agent) finish(ctx context.Context, v bundle.Version) error {
	cu, err := ask(a, &classUpgradeWanted{release: v})
	if err == nil {
		err = a.soft.Finalize(ctx, v, cu)
	}
	if err == nil {
		a.RemoveOldSlots(v, true)
		a.log.Info("release finalized", "version", v)
	}
	return err
}

// outcome is the event that ends an action.
func outcome(step uint64, err error, ok upgrade.Event) upgrade.Event {
	if err == nil {
		return ok
	}
	return upgrade.Failed{Step: step, Reason: err.Error(), Later: errors.Is(err, transforms.ErrLater) || errors.Is(err, errLost)}
}

// classUpgrade returns what release v does to this node's class.
func (l *loop) classUpgrade(v bundle.Version) (bundle.ClassUpgrade, error) {
	m := l.node.Manifests()[v]
	if m == nil {
		return bundle.ClassUpgrade{}, fmt.Errorf("the manifest of release %d is not here", v)
	}
	cu, ok := m.Classes[l.cfg.Class]
	if !ok {
		return cu, fmt.Errorf("release %d does not change class %s", v, l.cfg.Class)
	}
	return cu, nil
}

// drain lets the calls in flight end, stops the software, and clears away
// slots of the path that an earlier attempt may have left: the old state has
// gone on since then.
func (a *Agent) drain(ctx context.Context, path []bundle.Version) error {
	if err := a.stopSoftware(ctx); err != nil {
		return err
	}
	return a.RemoveSlots(path)
}

// transform makes one slot. A slot that is complete already was made by this
// same attempt, before a crash: drain cleared away all others.
func (a *Agent) transform(ctx context.Context, x upgrade.Transform) error {
	if a.Slots.Exists(x.To) {
		return a.publish(x) // its folder may not have been synced
	}
	if x.From == 0 {
		return a.Slots.Create(x.To)
	}
	// One may still write to the state that the transform reads.
	if err := a.insist(ctx, "transform", func() error { return a.awaitObjects(ctx) }); err != nil {
		return err
	}
	job, err := a.transformJob(ctx, x)
	if err != nil {
		return err
	}
	r, err := transforms.Runner{Log: a.log}.Run(ctx, job)
	if err != nil {
		return err
	}
	a.changed.Store(int64(r.Objects))
	return a.publish(x)
}

// publish makes what a transform has made count.
func (a *Agent) publish(x upgrade.Transform) error {
	if x.Reverse() {
		return a.Slots.PublishReverse(x.From, x.To)
	}
	return a.Slots.Publish(x.To)
}

// transformJob prepares a transform, or the reverse of one.
func (a *Agent) transformJob(ctx context.Context, x upgrade.Transform) (job transforms.Job, err error) {
	states := a.Slots.Objects()
	job = transforms.Job{
		Old: a.Slots.Path(x.From), From: x.From, To: x.To, Reverse: x.Reverse(), Env: a.soft.Environment(), Account: a.Account, Bounds: a.bounds.Transforms, Sandbox: a.Sandbox,
	}
	var cu bundle.ClassUpgrade
	if job.Reverse {
		if cu, job.Dir, err = a.programOf(ctx, x.From); err != nil {
			return job, err
		}
		job.Spec = cu.Transform
		if job.Past, err = a.objectState(x.From, "past", states.PastState(x.From), cu.Past); err != nil {
			return job, err
		}
		if err = errors.Join(a.Slots.Own(x.From), states.OwnPast(x.From)); err == nil {
			job.New, job.Future, job.Complement, err = a.Slots.PrepareReverse(x.From, x.To)
		}
		if err == nil && !cu.Future.Stateful() {
			job.Future = "" // nobody would read it
		}
		return job, err
	}
	if cu, job.Dir, err = a.programOf(ctx, x.To); err != nil {
		return job, err
	}
	job.Spec, job.Complement = cu.Transform, states.Complement(x.To)
	if job.Future, err = a.objectState(x.To, "future", states.FutureState(x.To), cu.Future); err != nil {
		return job, err
	}
	if err := errors.Join(a.Slots.Own(x.From), states.OwnFuture(x.To), states.OwnComplement(x.To)); err != nil {
		return job, err
	}
	if job.New, err = a.Slots.Prepare(x.To); err == nil && cu.Past.Stateful() {
		job.Past, err = a.Slots.PreparePast(x.To)
	}
	return job, err
}

// errLost says that something is not here that was when the node went down. Up again,
// it fetches that anew before it goes down again.
var errLost = errors.New("not here any more, though it was before the node went down")

// programOf returns what release v does to this node, and where its software is. It
// does not wait for what is lost: nobody may have it, and callers wait.
func (a *Agent) programOf(ctx context.Context, v bundle.Version) (cu bundle.ClassUpgrade, dir string, err error) {
	cu, art, err := a.softwareOf(v)
	if err == nil {
		dir, err = a.Depot.Ensure(ctx, art.Digest)
	}
	if _, forGood := errors.AsType[final](err); err != nil && !forGood {
		err = fmt.Errorf("the software of release %d is %w: %w", v, errLost, err)
	}
	return cu, dir, err
}

// admit makes the new slot the current one and lets callers in. The machine
// has already recorded that there is no way back.
func (a *Agent) admit(ctx context.Context, v bundle.Version) error {
	if err := a.Slots.Switch(v); err != nil {
		return err
	}
	if err := a.launch(ctx, v); err != nil {
		return err
	}
	_, err := askWithin(ctx, a, &callersWanted{})
	return err
}

// rollBack stops the new software and brings back the old on its slot; why tells what is
// wrong with that, though it is up. Old software that was not stopped yet goes on.
func (a *Agent) rollBack(ctx context.Context, x upgrade.Rollback, path []bundle.Version) (why string, err error) {
	if x.To != 0 && a.soft.Untouched(x.To) {
		err = a.RemoveSlots(path)
	} else {
		err = a.drain(ctx, path)
	}
	if err != nil || x.To == 0 {
		return "", err
	}
	if err := a.launch(ctx, x.To); err != nil {
		return "", err
	}
	if err := a.soft.PostStart(ctx, x.To); err != nil {
		why = err.Error()
	}
	return why, nil
}

// mayStop asks the software, by its hook, whether it may be stopped. On the way back its
// word does not count, nor in an attempt after one that has ended: software that is not well
// must not keep the node from what mends it.
func (a *Agent) mayStop(ctx context.Context, s upgrade.State) error {
	err := a.soft.PreStop(ctx, func(v software.Veto) bool {
		return s.Reverts == 0 && (errors.Is(v, transforms.ErrLater) || s.Ended(s.Goal) == 0)
	})
	if veto, ok := errors.AsType[software.Veto](err); ok {
		return final{veto}
	}
	return err
}
