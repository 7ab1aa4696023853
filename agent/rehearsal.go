package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"moult/agent/control"
	"moult/agent/node"
	"moult/agent/operator"
	"moult/agent/rehearse"
	"moult/agent/software"
	"moult/agent/upgrade"
	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/transforms"
)

// perhapsRehearse rehearses, after a pause where that could not be done before.
func (a *Agent) perhapsRehearse(ctx context.Context, x upgrade.Rehearse) upgrade.Event {
	if x.Before > 0 {
		timer := time.NewTimer(pauseBefore(x.Before))
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return nil // nobody waits for it
		case <-timer.C:
		}
	}
	r, err := a.rehearse(ctx, x)
	_, forGood := errors.AsType[final](err)
	switch {
	case err == nil:
		return upgrade.Rehearsed{Step: x.Step, Reason: r.Note, Took: bundle.Duration(r.Took), Down: r.Down()}
	case forGood:
		return upgrade.Failed{Step: x.Step, Reason: err.Error(), Later: errors.Is(err, errLost), Took: bundle.Duration(r.Took)}
	}
	return upgrade.Failed{Step: x.Step, Reason: err.Error(), Unable: true}
}

// pauseBefore is how long to wait before a rehearsal that so often could not be made.
func pauseBefore(tries int) time.Duration {
	pause := minPause
	for range tries {
		pause = min(2*pause, rehearsalPause)
	}
	return pause
}

// rehearse runs a path on a copy of the state. What the release itself fails at is final, and
// so is what must be fetched again.
func (a *Agent) rehearse(ctx context.Context, x upgrade.Rehearse) (r rehearse.Report, err error) {
	var path []rehearse.Passed
	for _, v := range x.Path {
		cu, dir, err := a.programOf(ctx, v)
		if err != nil {
			if errors.Is(err, errLost) {
				err = final{err}
			}
			return r, err
		}
		path = append(path, rehearse.Passed{Version: v, ClassUpgrade: cu, Dir: dir, Depot: a.Depot})
	}
	plan, err := ask(a, &planWanted{version: x.Path[len(x.Path)-1]})
	if err != nil {
		return r, err
	}
	r, err = a.rehearsePath(ctx, x.From, path, plan, nil)
	if _, unfit := errors.AsType[*rehearse.Unfit](err); unfit {
		err = final{err}
	}
	return r, err
}

// rehearsePath runs releases on a copy of the state of from, and starts the last as plan says.
func (a *Agent) rehearsePath(ctx context.Context, from bundle.Version, path []rehearse.Passed, plan software.Plan, watch func(control.RehearsalNews)) (r rehearse.Report, err error) {
	j := rehearse.Job{Folder: a.Rehearsals(), Node: a.ID, From: from, State: a.Slots.Path(from), Account: a.Account, Bounds: a.bounds.Rehearsals, Sandbox: a.Sandbox, Former: a.Former, Watch: watch}
	for _, p := range path {
		j.Add(p, a.Slots.Objects(), software.PlainEnvironment(a.Account, a.cfg.Env))
	}
	if err := a.soft.Rehearse(plan, &j); err != nil {
		return r, err
	}
	need, err := j.Need()
	if err == nil {
		err = a.Store.CheckSpace(need)
	}
	if err == nil {
		r, err = rehearse.Run(ctx, j, a.log)
		a.log.Info("rehearsed", "from", from, "to", plan.Version, "took", r.Took, "stages", r.Stages, "note", r.Note, "err", err)
	}
	return r, err
}

// demand is a rehearsal that somebody has asked for; the zero demand is none. It is one of
// the loop's works until it has ended.
type demand struct {
	up    chan error // why it is to be given up
	ended chan struct{}
}

// give has it given up, for the first reason that there is.
func (d demand) give(up error) {
	select {
	case d.up <- up:
	default:
	}
}

// underWay reports that nobody has closed what is closed at the end; nil never began.
func underWay(ended <-chan struct{}) bool {
	select {
	case <-ended:
		return false
	default:
		return ended != nil
	}
}

// afterRollout tells when a bundle can be rehearsed.
const afterRollout = "`moult status --wait` waits until the rollout has ended, and `moult pause` stops it meanwhile"

// letRehearse takes up a demand, or says why not: one rehearsal at a time, and none beside a
// rollout that this node has a part in. Of one that goes on without it, for ever where a node
// of it is gone, the next release may be the cure.
func (l *loop) letRehearse() (d demand, err error) {
	s, release := l.node.State(), l.report().Status(nil).Release
	switch {
	case underWay(l.demanded.ended):
		return d, control.Refused(errors.New("this agent rehearses another bundle"), "try again when that has ended")
	case s.Running == 0 || !s.Served:
		return d, control.Refused(errors.New("this node has not served yet, so there is no state to rehearse on"), "`moult status` names nodes that have; name the agent of one with --agent")
	case release.State == control.StateRolling && (s.Phase.Ahead() || s.Phase.Down() || s.Phase == upgrade.Probing):
		return d, control.Refused(fmt.Errorf("release %d is being rolled out, and a rehearsal would be in its way", release.Version), afterRollout)
	case s.Phase.Down() || underWay(l.running) && s.Phase != upgrade.Current:
		return d, control.Refused(fmt.Errorf("this node is %s", s.Phase), afterRollout)
	}
	if err := l.expired(); err != nil { // before somebody sends a long bundle
		return d, err
	}
	l.demanded = demand{make(chan error, 1), make(chan struct{})}
	l.work.Add(1)
	return l.demanded, nil
}

// expired refuses where the signed metadata have expired: nothing new starts then, nor does
// a rehearsal of it.
func (l *loop) expired() error {
	if !l.node.Expired() {
		return nil
	}
	return control.Refused(fmt.Errorf("the signed metadata %s, so nothing new starts here", l.report().Expiry()), "`moult trust refresh`, then `moult trust push`")
}

// way is the version that a node runs, and the releases by which it goes to another.
type way struct {
	from bundle.Version
	path []bundle.Version
}

// wayTo returns the node's way to the release of a bundle, or why it cannot be rehearsed.
func (l *loop) wayTo(b *archive.Bundle) (w way, err error) {
	goal := b.Head().Version
	w.from = l.node.State().Running
	if err := operator.CheckRehearsal(l.FirstRoot, l.trust, b, w.from); err != nil {
		return w, err
	}
	if err := l.expired(); err != nil {
		return w, err
	}
	w.path, err = l.node.PathTo(goal, b.Manifests())
	switch other, fromOther := errors.AsType[upgrade.OtherStart](err); {
	case errors.Is(err, upgrade.ErrFrozen):
		return w, control.Refused(err, "build and sign the next release on top of the right one, and inject that")
	case errors.Is(err, node.ErrWithdrawn):
		return w, control.Refused(err, "rehearse the next release")
	case fromOther:
		return w, control.Refused(err, fmt.Sprintf("build it with from = %d", other.At))
	case errors.Is(err, upgrade.ErrGap):
		return w, control.Refused(err, "inject the releases before it first")
	case err == nil && !slices.Contains(w.path, goal):
		err = control.Refused(fmt.Errorf("release %d does not change class %s here, so there is nothing to rehearse", goal, l.cfg.Class), "`moult plan BUNDLE` tells which classes it changes")
	}
	return w, err
}

// Rehearse runs the release of a bundle on a copy of the state, and keeps nothing of it. It
// is one of the loop's works: a rollout that begins here ends it.
func (b api) Rehearse(ctx context.Context, r io.Reader, told func(control.RehearsalNews)) (report control.Rehearsal, err error) {
	d, err := ask(b.a, &rehearsalDemanded{})
	if err != nil {
		return report, fmt.Errorf("rehearse: %w", err)
	}
	defer b.a.work.Done()
	defer close(d.ended)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b.a.spawn(func() {
		select {
		case up := <-d.up:
			cancel(up)
		case <-ctx.Done():
		}
	})
	report, err = b.a.rehearseBundle(ctx, r, told)
	if removeErr := transforms.RemoveTree(b.a.DemandedFolder()); removeErr != nil {
		b.a.log.Warn("the bundle of a rehearsal is not removed", "err", removeErr)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return report, fmt.Errorf("rehearse: %w", err)
	}
	return report, nil
}

func (a *Agent) rehearseBundle(ctx context.Context, r io.Reader, told func(control.RehearsalNews)) (report control.Rehearsal, err error) {
	b, err := rehearse.Receive(ctx, r, maxBundle, a.DemandedFolder(), a.FirstRoot, a.Account)
	if err != nil {
		return report, operator.Refusal(err)
	}
	defer b.Close() // it was only read
	w, err := ask(a, &wayWanted{bundle: b.Bundle})
	if err != nil {
		return report, err
	}
	told(control.RehearsalNews{Begins: "unpack the release"})
	path, plan, err := a.passedTo(ctx, b, w.path)
	if err != nil {
		return report, err
	}
	found, err := a.rehearsePath(ctx, w.from, path, plan, told)
	if err != nil && ctx.Err() != nil {
		return report, err
	}
	report = control.Rehearsal{
		Node: a.cfg.Name, ID: a.ID, Class: a.cfg.Class, Release: plan.Version, Digest: bundle.Sum(b.ManifestBytes(plan.Version)), From: w.from, Path: w.path,
		Took: bundle.Duration(found.Took), Stages: found.Stages,
	}
	report.Outcome, report.Reason = found.Found(err)
	if last := path[len(path)-1]; last.Future.Stateful() && a.Slots.Objects().FutureState(last.Version) == "" {
		report.Lacks(fmt.Sprintf("the transform had no state of the future object of release %d, which has not run here: nodes rehearse with it once the release is ordered", last.Version))
	}
	return report, nil
}

// passedTo returns what a path goes through, the last of it as the bundle has it, and how
// that is started.
func (a *Agent) passedTo(ctx context.Context, b *rehearse.Bundled, path []bundle.Version) (all []rehearse.Passed, plan software.Plan, err error) {
	for _, v := range path[:len(path)-1] {
		cu, dir, err := a.programOf(ctx, v)
		if err != nil {
			return nil, plan, control.Refused(fmt.Errorf("the software of release %d, by which this node goes to release %d, is not here", v, path[len(path)-1]), node.Bring(v))
		}
		all = append(all, rehearse.Passed{Version: v, ClassUpgrade: cu, Dir: dir, Depot: a.Depot})
	}
	last, err := b.Unpack(ctx, a.cfg.Class, a.platform, a.log)
	if err == nil {
		plan, err = a.planWith(last.Version, last.ClassUpgrade)
	}
	if err == nil {
		plan.Dir, err = last.Dir, a.serves(plan)
	}
	return append(all, last), plan, err
}
