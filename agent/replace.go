package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"moult/agent/control"
	"moult/agent/node"
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
	if s.Problem != "" {
		s.Problem += ": the program that was started runs; remove that file to have it begin anew"
	}
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
