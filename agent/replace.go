package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"moult/agent/control"
	"moult/agent/node"
	"moult/agent/schedule"
	"moult/agent/selfupdate"
	"moult/store/bundle"
)

// upAfter is how long an agent's loop turns until a build is taken for one that has come up.
const upAfter = 20 * time.Second

// Causes of alarms.
const causeBuild, causeBuilds = "agent build", "agent builds"

// checkBuild tries, beside all else, whether a build could be this agent.
func (a *Agent) checkBuild(ctx context.Context, b selfupdate.Build) error {
	return a.builds.Check(ctx, b, a.cfg, a.Store, os.Args[1:])
}

// giveWay ends this agent for a build to be tried in its place, unless that would leave a node
// down. Nothing begins from then on: both are decided here at once.
func (l *loop) giveWay(b selfupdate.Build, deadline time.Duration) error {
	if l.broken != nil || l.switching != nil {
		return errStopped
	}
	if s := l.node.State(); s.Phase.Down() || s.Phase != l.saved.Phase || l.node.Refusing() {
		return control.Refused(fmt.Errorf("replace the agent: the node is %s, and its agent would leave it so", s.Phase), "wait until that is over: see `moult status`")
	}
	sw, err := l.builds.Begin(b, deadline)
	if err != nil {
		return fmt.Errorf("replace the agent: %w", err)
	}
	l.step(node.AgentTrial{})
	sw.Before = l.before()
	l.switching = sw
	l.quit()
	return nil
}

// before is what the build on trial must not know less of.
func (l *loop) before() selfupdate.Before {
	b := selfupdate.Before{Node: l.ID, Name: l.cfg.Name, Class: l.cfg.Class, Cluster: l.Cluster, Head: l.node.Head(), Running: l.saved.Running, Number: l.node.Number()}
	for r := range l.node.View().All() {
		b.Peers = b.Peers || r.Node != l.ID && l.node.Alive(r.Node)
	}
	return b
}

// watchBuilds says what is wrong with this agent's builds, and that this one is up.
func (l *loop) watchBuilds() {
	if time.Since(l.upSince) > upAfter {
		l.builds.Up()
	}
	s := l.builds.State()
	l.alarmOf(causeBuilds, s.Problem)
	text := ""
	if n := len(s.Failed); n > 0 && s.Failed[n-1].At.After(s.Since) {
		f := s.Failed[n-1]
		text = fmt.Sprintf("%v was put back as this node's agent on %s: %s; `moult agent replace FILE` tries another, and with the file of the agent that runs has this forgotten",
			f.Build, f.At.Format(time.DateTime), f.Reason)
	}
	l.alarmOf(causeBuild, text)
}

// Replace takes a program, checks it, and begins its trial.
func (b api) Replace(ctx context.Context, program io.Reader, deadline time.Duration) (r control.Replacing, err error) {
	if b.a.builds.State().OnTrial {
		return r, control.Refused(errors.New("replace the agent: this one is itself on trial"), "wait until that is over: see `moult status`")
	}
	if err := b.a.Store.CheckSpace(selfupdate.MaxBuild / 4); err != nil {
		return r, fmt.Errorf("replace the agent: %w", err)
	}
	f, err := b.a.Arrival()
	if err != nil {
		return r, fmt.Errorf("replace the agent: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	n, err := io.Copy(f, io.LimitReader(program, selfupdate.MaxBuild+1))
	if err == nil && n > selfupdate.MaxBuild {
		err = control.Misuse(fmt.Errorf("replace the agent: a program of more than %d MiB", selfupdate.MaxBuild>>20), "")
	}
	if err != nil {
		return r, err
	}
	return b.replace(ctx, f.Name(), deadline)
}

func (b api) replace(ctx context.Context, file string, deadline time.Duration) (r control.Replacing, err error) {
	build, err := b.a.builds.Add(ctx, file, 0)
	switch {
	case errors.Is(err, selfupdate.ErrUnusable):
		return r, control.Misuse(fmt.Errorf("replace the agent: what was handed in: %w", err), "hand in moult, built for "+b.a.platform.String())
	case err != nil:
		return r, fmt.Errorf("replace the agent: %w", err)
	}
	r = control.Replacing{Digest: build.Digest, Deadline: bundle.Duration(deadline)}
	if deadline == 0 {
		r.Deadline = bundle.Duration(selfupdate.DefaultDeadline)
	}
	if r.Runs, err = b.a.builds.Runs(build); err != nil || r.Runs {
		return r, err
	}
	if err := b.a.checkBuild(ctx, build); errors.Is(err, selfupdate.ErrUnfit) {
		return r, control.Refused(fmt.Errorf("replace the agent: %w", err), "nothing has changed: the agent goes on")
	} else if err != nil {
		return r, fmt.Errorf("replace the agent: %w", err)
	}
	r.Begun = time.Now().UTC().Add(-time.Millisecond) // failures are noted by the millisecond
	_, err = ask(b.a, &switchWanted{build: build, deadline: deadline})
	return r, err
}

// build is what people are told of this agent's builds.
func (a *Agent) build() control.AgentBuild {
	s := a.builds.State()
	b := control.AgentBuild{Digest: s.Running.Digest, Release: s.Running.Release, Packaged: s.Packaged, OnTrial: s.OnTrial}
	if s.Packaged {
		own, err := a.builds.Own()
		if err != nil {
			a.log.Warn("this program cannot be read", "err", err)
		}
		b.Digest = own
	}
	for _, f := range s.Failed {
		b.Failed = append(b.Failed, control.FailedBuild{Digest: f.Digest, Release: f.Release, Reason: f.Reason, At: f.At, Interrupted: f.Again, Times: f.Times})
	}
	return b
}

// noteAgent tells the node, from beside the loop, which program this agent is.
func (a *Agent) noteAgent(fetched bundle.Digest, problem error) {
	a.tell(a.knownAgent(fetched, problem))
}

func (a *Agent) knownAgent(fetched bundle.Digest, problem error) node.AgentKnown {
	known := node.AgentKnown{AgentKnown: schedule.AgentKnown{Fetched: fetched, Failed: map[bundle.Digest]string{}}}
	s := a.builds.State()
	known.OnTrial = s.OnTrial
	for _, f := range s.Failed {
		if f.Final() {
			known.Failed[f.Digest] = f.Reason
		}
	}
	var err error
	if known.Runs, err = a.builds.Own(); err != nil {
		problem = errors.Join(problem, err)
	}
	if problem != nil {
		known.Problem = fmt.Sprintf("the agent of a release cannot be put in place here, and it is tried again: %v", problem)
	}
	return known
}

// followAgent fetches, beside the loop, the agent of a release, and replaces this one by it where
// it is to be: the loop ends then, so that nobody waits for the answer.
func (l *loop) followAgent(step schedule.AgentStep) {
	a := l.Agent
	a.spawn(func() {
		ctx, cancel := a.untilStopped()
		defer cancel()
		art := step.Artifact
		dir, err := a.fetchArtifact(ctx, art.Artifact, nil)
		if err == nil && step.Replace {
			err = a.replaceBy(ctx, filepath.Join(dir, bundle.AgentProgram), step)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			a.log.Warn("the agent of a release is not in place", "release", step.Release, "program", art.Program.Short(), "err", err)
			a.noteAgent(bundle.Digest{}, fmt.Errorf("release %d: %w", step.Release, err))
			return
		}
		a.noteAgent(art.Digest, nil)
	})
}

// replaceBy tries the program of a release. What is found wrong with it is written down, and is
// no error: it is not tried again by itself.
func (a *Agent) replaceBy(ctx context.Context, program string, step schedule.AgentStep) error {
	b, err := a.builds.Add(ctx, program, step.Release)
	if err == nil && b.Digest != step.Artifact.Program {
		err = fmt.Errorf("its program is %s, and the release names %s: %w", b.Digest.Short(), step.Artifact.Program.Short(), selfupdate.ErrUnusable)
	}
	if err == nil {
		err = a.checkBuild(ctx, b)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, selfupdate.ErrUnusable) || errors.Is(err, selfupdate.ErrUnfit) {
		return a.builds.Reject(selfupdate.Build{Release: step.Release, Digest: step.Artifact.Program}, err.Error())
	}
	if err == nil {
		_, err = ask(a, &switchWanted{build: b, deadline: time.Duration(step.Deadline)})
	}
	if e, ok := errors.AsType[*control.Error](err); ok && e.Kind == control.KindRefused {
		return nil // the node goes down, or is: it asks again when it is up
	}
	return err
}
