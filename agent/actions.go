package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"moult/agent/upgrade"
	"moult/store"
	"moult/store/bundle"
	"moult/transforms"
)

// restore brings back the machine as it was before the restart, or makes the
// first one.
func (a *Agent) restore() error {
	if err := a.restoreView(); err != nil {
		return err
	}
	a.seq = a.store.Floor().RecordSeq
	state, err := a.lastState()
	if err != nil {
		return err
	}
	if d := a.store.Damage(); d != nil {
		a.alarm("the store was damaged (%s); what peers know is fetched again", d.What)
	}
	if a.machine, err = upgrade.New(state); err != nil {
		return err
	}
	return a.restoreTrust()
}

// lastState is the newest state in the journal, or what the slots say where
// there is no journal: the node's first start, or a lost database.
func (a *Agent) lastState() (upgrade.State, error) {
	var last []byte
	err := a.store.Journal(0, func(e store.Entry) error {
		if e.Kind == journalUpgrade {
			last = e.Data
		}
		return nil
	})
	if err != nil {
		return upgrade.State{}, err
	}
	if last != nil {
		return upgrade.ParseState(last)
	}
	return a.firstState()
}

func (a *Agent) firstState() (upgrade.State, error) {
	v, ok, err := a.slots.Current()
	if err != nil {
		return upgrade.State{}, err
	}
	if !ok {
		if a.cfg.Adopt == nil {
			return upgrade.State{Phase: upgrade.Current}, nil
		}
		v = a.cfg.Adopt.Version
		a.log.Info("taking over the software's state", "version", v, "from", a.cfg.Adopt.State)
		if err := a.slots.Adopt(v, a.cfg.Adopt.State); err != nil {
			return upgrade.State{}, err
		}
		return upgrade.Adopted(v), nil
	}
	f := a.store.Floor()
	s := upgrade.Adopted(v)
	s.Obeys, s.EndedRelease, s.EndedCount = f.Obeys, f.EndedRelease, f.EndedCount
	s.Served = a.store.Damage() != nil
	return s, nil
}

// begin starts what the restored machine waits for.
func (a *Agent) begin() {
	a.fetchDocuments()
	a.carryOut()
}

// step tells the machine what happened, and carries out what follows.
func (a *Agent) step(e upgrade.Event) {
	before := a.machine.State()
	a.machine.Step(e)
	if s := a.machine.State(); s.Phase != before.Phase {
		a.log.Info("phase", "from", before.Phase, "to", s.Phase, "version", s.Version, "goal", s.Goal, "reason", s.Reason)
	}
	a.carryOut()
}

// carryOut makes the machine's state durable, then starts its actions.
func (a *Agent) carryOut() {
	todo := a.machine.Todo()
	if todo.Empty() {
		return
	}
	if todo.Save != nil {
		if err := a.save(*todo.Save); err != nil {
			// Nothing has been started: the state that is on disk is the one to
			// go on from, and only a restart can do that.
			a.log.Error("the journal cannot be written, the agent ends; its node goes on", "err", err)
			a.quit()
			return
		}
		a.fail.reach(todo.Save.Phase, "saved")
		a.live.admitted = a.live.admitted && todo.Save.Phase == upgrade.Probing
		a.route()
		a.publish()
	}
	a.machine.Advance()
	for _, action := range todo.Actions {
		a.start(action)
	}
}

// save appends the state to the journal, and to the floor what must survive
// even the loss of the journal.
func (a *Agent) save(s upgrade.State) error {
	data, err := s.Marshal()
	if err != nil {
		return err
	}
	return a.store.Update(func(tx *store.Tx) error {
		if _, err := tx.Append(journalUpgrade, data); err != nil {
			return err
		}
		return tx.Raise(func(f *store.Floor) {
			f.Obeys = max(f.Obeys, s.Obeys)
			if s.EndedRelease > f.EndedRelease {
				f.EndedRelease, f.EndedCount = s.EndedRelease, 0
			}
			if s.EndedRelease == f.EndedRelease {
				f.EndedCount = max(f.EndedCount, s.EndedCount)
			}
		})
	})
}

// start begins one action. At most one action with an answer is under way: a
// newer one ends the older.
func (a *Agent) start(action upgrade.Action) {
	if run, ok := action.(upgrade.Run); ok {
		a.soft.keep(run.Version)
		return
	}
	if a.cancel != nil {
		a.cancel()
	}
	ctx, cancel := a.untilStopped()
	a.cancel = cancel
	phase := a.machine.State().Phase
	perform := a.performer(action)
	a.spawn(func() {
		defer cancel()
		answer := perform(ctx)
		if ctx.Err() != nil || answer == nil {
			return
		}
		a.post(func() {
			a.fail.reach(phase, "done")
			a.step(answer)
		})
	})
}

// performer returns the function that carries out an action and returns its
// answer. It is called in the loop, and reads there what the function needs;
// the function itself runs beside the loop.
func (a *Agent) performer(action upgrade.Action) func(context.Context) upgrade.Event {
	s := a.machine.State()
	switch x := action.(type) {
	case upgrade.Fetch:
		jobs, err := a.fetchJobs(x.Path)
		return func(ctx context.Context) upgrade.Event {
			if err == nil {
				err = a.fetchAll(ctx, jobs)
			}
			return answer(x.Step, err, upgrade.Staged{Step: x.Step})
		}
	case upgrade.Drain:
		return func(ctx context.Context) upgrade.Event {
			return answer(x.Step, a.drain(ctx, s.Path), upgrade.Drained{Step: x.Step})
		}
	case upgrade.Transform:
		cu, err := a.classUpgrade(x.To)
		return func(ctx context.Context) upgrade.Event {
			if err == nil {
				err = a.transform(ctx, cu, x)
			}
			return answer(x.Step, err, upgrade.Transformed{Step: x.Step, To: x.To})
		}
	case upgrade.Launch:
		return func(ctx context.Context) upgrade.Event {
			return answer(x.Step, a.soft.launch(ctx, x.Version), upgrade.Ready{Step: x.Step})
		}
	case upgrade.Admit:
		return func(ctx context.Context) upgrade.Event {
			return answer(x.Step, a.admit(ctx, x.Version), upgrade.Admitted{Step: x.Step})
		}
	case upgrade.Probe:
		return func(ctx context.Context) upgrade.Event {
			return answer(x.Step, a.soft.probe(ctx, x.Version), upgrade.Healthy{Step: x.Step})
		}
	case upgrade.Settle:
		a.sweep(s)
		return func(context.Context) upgrade.Event {
			a.removeOldSlots(s)
			return upgrade.Recorded{Step: x.Step}
		}
	case upgrade.Rollback:
		return func(ctx context.Context) upgrade.Event {
			return upgrade.RolledBack{Step: x.Step, Reason: a.rollBack(ctx, x, s.Path)}
		}
	}
	panic(fmt.Sprintf("agent: unknown action %T", action))
}

// answer is the event that ends an action.
func answer(step uint64, err error, ok upgrade.Event) upgrade.Event {
	if err == nil {
		return ok
	}
	return upgrade.Failed{Step: step, Reason: err.Error(), Later: errors.Is(err, transforms.ErrLater)}
}

// classUpgrade returns what release v does to this node's class.
func (a *Agent) classUpgrade(v bundle.Version) (bundle.ClassUpgrade, error) {
	m := a.docs.manifests[v]
	if m == nil {
		return bundle.ClassUpgrade{}, fmt.Errorf("the manifest of release %d is not here", v)
	}
	cu, ok := m.Classes[a.cfg.Class]
	if !ok {
		return cu, fmt.Errorf("release %d does not change class %s", v, a.cfg.Class)
	}
	return cu, nil
}

// fetchJobs lists the artifacts that a path needs, for this platform.
func (a *Agent) fetchJobs(path []bundle.Version) ([]bundle.Artifact, error) {
	var jobs []bundle.Artifact
	for _, v := range path {
		cu, err := a.classUpgrade(v)
		if err != nil {
			return nil, err
		}
		art, ok := cu.Artifact(a.platform)
		if !ok {
			return nil, fmt.Errorf("release %d has no software of class %s for %s: ask its publisher for one", v, a.cfg.Class, a.platform)
		}
		jobs = append(jobs, art)
	}
	return jobs, nil
}

// fetchAll fetches, checks and unpacks artifacts.
func (a *Agent) fetchAll(ctx context.Context, jobs []bundle.Artifact) error {
	for i, art := range jobs {
		asm, err := a.depot.Begin(art)
		if err != nil {
			return err
		}
		done := make(chan struct{})
		a.spawn(func() { a.reportProgress(done, asm.Progress, i, len(jobs)) })
		err = a.fetch.Fetch(ctx, art, asm)
		close(done)
		if err == nil {
			_, err = asm.Finish()
		}
		if err = closeWith(err, asm); err != nil {
			return fmt.Errorf("fetch artifact %s: %w", art.Digest.Short(), err)
		}
	}
	return nil
}

// reportProgress tells the loop, now and then, how far a fetch is.
func (a *Agent) reportProgress(done <-chan struct{}, progress func() (have, total int64), i, n int) {
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			have, total := progress()
			a.post(func() { a.progress = (float64(i) + float64(have)/float64(max(total, 1))) / float64(n) })
		}
	}
}

// drain lets the calls in flight end, stops the software, and clears away
// slots of the path that an earlier attempt may have left: the old state has
// gone on since then.
func (a *Agent) drain(ctx context.Context, path []bundle.Version) error {
	if err := a.soft.drain(ctx); err != nil {
		return err
	}
	return a.removeSlots(path)
}

func (a *Agent) removeSlots(path []bundle.Version) error {
	for _, v := range path {
		if !a.slots.Exists(v) {
			continue
		}
		if err := a.slots.Remove(v); err != nil {
			return err
		}
	}
	return nil
}

// transform makes one slot. A slot that is complete already was made by this
// same attempt, before a crash: drain cleared away all others.
func (a *Agent) transform(ctx context.Context, cu bundle.ClassUpgrade, x upgrade.Transform) error {
	if a.slots.Exists(x.To) {
		return a.slots.Publish(x.To) // its folder may not have been synced
	}
	if x.From == 0 {
		return a.slots.Create(x.To)
	}
	art, ok := cu.Artifact(a.platform)
	if !ok {
		return fmt.Errorf("release %d has no software for %s", x.To, a.platform)
	}
	dir, err := a.depot.Ensure(ctx, art.Digest)
	if err != nil {
		return fmt.Errorf("the software of release %d: %w", x.To, err)
	}
	tmp, err := a.slots.Prepare(x.To)
	if err != nil {
		return err
	}
	r, err := transforms.Runner{Log: a.log}.Run(ctx, transforms.Job{
		Spec: cu.Transform, Dir: dir, Old: a.slots.Path(x.From), New: tmp, From: x.From, To: x.To, Env: a.soft.environment(),
	})
	if err != nil {
		return err
	}
	a.post(func() { a.objects = r.Objects })
	return a.slots.Publish(x.To)
}

// admit makes the new slot the current one and lets callers in. The machine
// has already recorded that there is no way back.
func (a *Agent) admit(ctx context.Context, v bundle.Version) error {
	if err := a.slots.Switch(v); err != nil {
		return err
	}
	if err := a.soft.launch(ctx, v); err != nil {
		return err
	}
	if !a.ask(func() {
		a.live.admitted = true
		a.route()
	}) {
		return context.Canceled
	}
	return nil
}

// rollBack stops the new software and brings back the old on its slot. It
// returns what is wrong with the old software, if anything is.
func (a *Agent) rollBack(ctx context.Context, x upgrade.Rollback, path []bundle.Version) string {
	if err := a.soft.drain(ctx); err != nil {
		return err.Error()
	}
	if err := a.removeSlots(path); err != nil {
		a.log.Warn("slot of a failed attempt not removed", "err", err)
	}
	if x.To == 0 {
		return ""
	}
	if err := a.soft.launch(ctx, x.To); err != nil {
		return err.Error()
	}
	return ""
}

// sweep gives back the disk of releases long past. The last keptReleases stay,
// with all their platforms: peers that were away take each on the way.
func (a *Agent) sweep(s upgrade.State) {
	if a.injecting > 0 {
		return // what it brings is named by no metadata yet
	}
	keep := []bundle.Digest{a.trust.Digest(), a.evidence.digest}
	for _, n := range a.trust.Releases() {
		ref, _ := a.trust.Release(n)
		keep = append(keep, ref.Digest)
	}
	for _, n := range a.trust.Orders() {
		ref, _ := a.trust.Order(n)
		keep = append(keep, ref.Digest)
	}
	for v, m := range a.docs.manifests {
		for _, cu := range m.Classes {
			keep = append(keep, cu.Past.Rules.Digest, cu.Future.Rules.Digest)
			for _, art := range cu.Artifacts {
				if v+keptReleases > s.Version {
					keep = append(keep, art.Digest)
				}
			}
		}
	}
	removed, err := a.depot.Sweep(keep)
	if err != nil {
		a.log.Warn("old artifacts not removed", "err", err)
	}
	if removed > 0 {
		a.log.Info("removed old artifacts and documents", "count", removed)
	}
}

// removeOldSlots keeps the slot before the running one, and gives back the
// disk of those before it.
func (a *Agent) removeOldSlots(s upgrade.State) {
	versions, err := a.slots.List()
	if err != nil {
		a.log.Warn("old slots not removed", "err", err)
		return
	}
	var previous bundle.Version
	for _, v := range versions {
		if v < s.Running {
			previous = max(previous, v)
		}
	}
	for _, v := range versions {
		if v >= previous {
			continue
		}
		if err := a.slots.Remove(v); err != nil {
			a.log.Warn("old slot not removed", "version", v, "err", err)
		}
	}
}
