package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"moult/agent/node"
	"moult/agent/upgrade"
	"moult/store/bundle"
	"moult/transforms"
)

// start begins one action. At most one action with an answer is under way: a
// newer one ends the older, and waits until it has returned.
func (a *Agent) start(action upgrade.Action) {
	if run, ok := action.(upgrade.Run); ok {
		a.keepUp(run.Version)
		return
	}
	if a.cancel != nil {
		a.cancel()
	}
	ctx, cancel := a.untilStopped()
	before, done := a.running, make(chan struct{})
	a.cancel, a.running = cancel, done
	phase := a.saved.Phase
	perform := a.performer(action)
	a.spawn(func() {
		defer close(done)
		defer cancel()
		if before != nil {
			<-before
		}
		answer := perform(ctx)
		if ctx.Err() != nil || answer == nil {
			return
		}
		a.post(func() {
			a.fail.reach(phase, "done")
			a.step(node.ActionEnded{Answer: answer})
		})
	})
}

// keepUp has the software of v kept up. Where its admission was recorded and
// its slot not yet made the current one, that is done first: what it serves is
// what a lost database must be restored to.
func (a *Agent) keepUp(v bundle.Version) {
	if current, ok, err := a.slots.Current(); (err != nil || !ok || current != v) && a.slots.Exists(v) {
		if err := a.slots.Switch(v); err != nil {
			a.alarm("the current slot is not the one that serves: %v", err)
		}
	}
	a.soft.Keep(v)
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
		a.post(func() {
			if ctx.Err() == nil {
				a.step(node.Trouble{Text: what + ": " + err.Error()})
			}
		})
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// performer returns the function that carries out an action and returns its
// answer. It is called in the loop, and reads there what the function needs;
// the function itself runs beside the loop.
func (a *Agent) performer(action upgrade.Action) func(context.Context) upgrade.Event {
	s := a.saved
	switch x := action.(type) {
	case upgrade.Fetch:
		return func(ctx context.Context) upgrade.Event {
			err := a.insist(ctx, "fetch", func() error { return a.fetchPath(ctx, x.Path) })
			return answer(x.Step, err, upgrade.Staged{Step: x.Step})
		}
	case upgrade.Drain:
		return func(ctx context.Context) upgrade.Event {
			err := a.insist(ctx, "drain", func() error { return a.drain(ctx, s.Path) })
			return answer(x.Step, err, upgrade.Drained{Step: x.Step})
		}
	case upgrade.Transform:
		return func(ctx context.Context) upgrade.Event {
			return answer(x.Step, a.transform(ctx, x), upgrade.Transformed{Step: x.Step, To: x.To})
		}
	case upgrade.Launch:
		return func(ctx context.Context) upgrade.Event {
			return answer(x.Step, a.launch(ctx, x.Version), upgrade.Ready{Step: x.Step})
		}
	case upgrade.Admit:
		return func(ctx context.Context) upgrade.Event {
			return answer(x.Step, a.admit(ctx, x.Version), upgrade.Admitted{Step: x.Step})
		}
	case upgrade.Probe:
		return func(ctx context.Context) upgrade.Event {
			return answer(x.Step, a.soft.Probe(ctx, x.Version), upgrade.Healthy{Step: x.Step})
		}
	case upgrade.Settle:
		a.sweep(s)
		return func(context.Context) upgrade.Event {
			a.removeOldSlots(s)
			a.removeFutureStates(s)
			return upgrade.Recorded{Step: x.Step}
		}
	case upgrade.Rollback:
		return func(ctx context.Context) upgrade.Event {
			// The attempt counts as ended, and others go on, only when the old
			// software is up again.
			err := a.insist(ctx, "roll back", func() error { return a.rollBack(ctx, x, s.Path) })
			return answer(x.Step, err, upgrade.RolledBack{Step: x.Step})
		}
	}
	panic(fmt.Sprintf("agent: unknown action %T", action))
}

// answer is the event that ends an action.
func answer(step uint64, err error, ok upgrade.Event) upgrade.Event {
	if err == nil {
		return ok
	}
	return upgrade.Failed{Step: step, Reason: err.Error(), Later: errors.Is(err, transforms.ErrLater) || errors.Is(err, errLost)}
}

// classUpgrade returns what release v does to this node's class.
func (a *Agent) classUpgrade(v bundle.Version) (bundle.ClassUpgrade, error) {
	m := a.node.Manifests()[v]
	if m == nil {
		return bundle.ClassUpgrade{}, fmt.Errorf("the manifest of release %d is not here", v)
	}
	cu, ok := m.Classes[a.cfg.Class]
	if !ok {
		return cu, fmt.Errorf("release %d does not change class %s", v, a.cfg.Class)
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
	return a.removeSlots(path)
}

func (a *Agent) removeSlots(path []bundle.Version) error {
	for _, v := range path {
		if err := a.slots.Remove(v); err != nil { // or what it left of an object's state
			return err
		}
	}
	return nil
}

// transform makes one slot. A slot that is complete already was made by this
// same attempt, before a crash: drain cleared away all others.
func (a *Agent) transform(ctx context.Context, x upgrade.Transform) error {
	if a.slots.Exists(x.To) {
		return a.slots.Publish(x.To) // its folder may not have been synced
	}
	if x.From == 0 {
		return a.slots.Create(x.To)
	}
	cu, dir, err := a.programOf(ctx, x.To)
	if err != nil {
		return err
	}
	// One may still write to the state that the transform reads.
	if err := a.insist(ctx, "transform", func() error { return a.settleObjects(ctx) }); err != nil {
		return err
	}
	future, err := a.futureState(x.To, cu)
	if err != nil {
		return err
	}
	if err := errors.Join(a.slots.Own(x.From), a.slots.Objects().OwnFuture(x.To)); err != nil {
		return err
	}
	tmp, err := a.slots.Prepare(x.To)
	if err != nil {
		return err
	}
	job := transforms.Job{
		Spec: cu.Transform, Dir: dir, Old: a.slots.Path(x.From), New: tmp, From: x.From, To: x.To, Env: a.soft.Environment(),
		Future: future, Account: a.account,
	}
	if cu.Past.Stateful() {
		if job.Past, err = a.slots.PreparePast(x.To); err != nil {
			return err
		}
	}
	r, err := transforms.Runner{Log: a.log}.Run(ctx, job)
	if err != nil {
		return err
	}
	a.post(func() { a.changed = r.Objects })
	return a.slots.Publish(x.To)
}

// errLost says that something is not here that was when the node went down. Up again,
// it fetches that anew before it goes down again.
var errLost = errors.New("not here any more, though it was before the node went down")

// programOf returns what release v does to this node, and where its software is. It
// does not wait for what is lost: nobody may have it, and callers wait.
func (a *Agent) programOf(ctx context.Context, v bundle.Version) (cu bundle.ClassUpgrade, dir string, err error) {
	artifacts, _, err := a.needsOf([]bundle.Version{v})
	if err == nil {
		if !a.ask(func() { cu, err = a.classUpgrade(v) }) {
			err = errStopped
		}
	}
	if err == nil {
		dir, err = a.depot.Ensure(ctx, artifacts[0].Digest)
	}
	if _, forGood := errors.AsType[final](err); err != nil && !forGood {
		err = fmt.Errorf("the software of release %d is %w: %w", v, errLost, err)
	}
	return cu, dir, err
}

// admit makes the new slot the current one and lets callers in. The machine
// has already recorded that there is no way back.
func (a *Agent) admit(ctx context.Context, v bundle.Version) error {
	if err := a.slots.Switch(v); err != nil {
		return err
	}
	if err := a.launch(ctx, v); err != nil {
		return err
	}
	var err error
	var letIn chan error
	if !a.ask(func() {
		a.step(node.LetIn{})
		if err = a.routeNow(); err == nil && a.serving.holding {
			letIn = make(chan error, 1)
			a.serving.letIn = letIn
		}
	}) {
		return context.Canceled
	}
	if err != nil || letIn == nil {
		return err
	}
	select {
	case err := <-letIn:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// rollBack stops the new software and brings back the old on its slot.
func (a *Agent) rollBack(ctx context.Context, x upgrade.Rollback, path []bundle.Version) error {
	if err := a.drain(ctx, path); err != nil {
		return err
	}
	if x.To == 0 {
		return nil
	}
	return a.launch(ctx, x.To)
}
