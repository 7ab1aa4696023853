package selfupdate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"moult/agent/config"
	"moult/agent/control"
	"moult/simlayer/host/child"
	"moult/store"
	"moult/store/durable"
)

// Sockets are those at which callers wait while no agent is there. The build on trial has copies of
// them, and so has what this process becomes.
type Sockets interface {
	// Pass returns them as ExtraFiles of a child, Exec has them survive an execve; both with
	// the environment variable by which they are found.
	Pass() ([]*os.File, string)
	Exec() (string, error)
}

// Run holds the trial of a Switch, in the process whose agent has ended: see the package doc.
// This process then becomes the build that is to run, so Run returns only where it was to end
// (ctx, with nil), or where it can become nothing. args are the agent's arguments.
func (f *Folder) Run(ctx context.Context, sw *Switch, cfg config.Config, sockets Sockets, args []string) error {
	f.log.Info("another build of the agent is on trial", "build", sw.Digest.Short(), "release", sw.Release, "deadline", sw.Deadline)
	v := f.hold(ctx, sw, cfg, sockets, args)
	v, err := f.settle(cfg, sw.Build, v)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	passed, err := sockets.Exec()
	if err != nil {
		f.log.Warn("callers are refused until the next agent is there", "err", err)
	}
	if v.well {
		f.log.Info("another build of the agent has shown itself well, and goes on", "build", sw.Digest.Short())
		r := role{kind: confirmed, digest: sw.Digest, packaged: f.packaged()}
		program := f.path(sw.Digest)
		if f.doc.Confirmed == nil {
			r, program = role{}, f.packaged()
		}
		err := become(program, append(environment(r), passed))
		f.log.Error("the confirmed build cannot be started", "err", err)
		if err := f.change(func(d *document) {
			d.fail(Failure{Build: sw.Build, Reason: "it cannot be started: " + err.Error(), At: f.now()})
			d.Confirmed = nil
		}); err != nil {
			f.log.Error("that is not kept", "err", err)
		}
	}
	return fmt.Errorf("go on as the build of before: %w", f.resume(passed))
}

// packaged is the path of the packaged program.
func (f *Folder) packaged() string {
	if f.role.kind != "" {
		return f.role.packaged
	}
	path, err := os.Executable()
	if err != nil {
		return child.ThisProgram()
	}
	return path
}

// resume begins this same program anew.
func (f *Folder) resume(passed string) error {
	return become(child.ThisProgram(), append(environment(f.role), passed))
}

// hold runs the candidate until it is known what it is.
func (f *Folder) hold(ctx context.Context, sw *Switch, cfg config.Config, sockets Sockets, args []string) verdict {
	made := f.before() + ".new"
	err := f.clear()
	if err == nil {
		err = store.Copy(cfg.Data, made)
	}
	if err == nil {
		err = durable.Rename(made, f.before())
	}
	if err != nil {
		return verdict{again: true, reason: fmt.Sprintf("the store was not copied beforehand: %v", err)}
	}
	// The candidate dies with the thread that has started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(sw.Path, args...)
	cmd.Env = childEnvironment(role{kind: onTrial, digest: sw.Digest, packaged: f.packaged()})
	var passed string
	cmd.ExtraFiles, passed = sockets.Pass()
	cmd.Env = append(cmd.Env, passed)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	tie(cmd)
	if err := cmd.Start(); err != nil {
		return verdict{again: passing(err), reason: fmt.Sprintf("it cannot be started: %v", err)}
	}
	c := &candidate{Switch: sw, cmd: cmd, ended: make(chan error, 1)}
	go func() { c.ended <- cmd.Wait() }()
	v := c.watch(ctx, cfg.Data)
	if v.well || ctx.Err() != nil {
		return c.stop(v)
	}
	c.kill()
	return v
}

// candidate is a build on trial.
type candidate struct {
	*Switch
	cmd   *exec.Cmd
	ended chan error
	gone  bool
}

// watch asks the candidate until it was well for long enough, or has failed.
func (c *candidate) watch(ctx context.Context, data string) verdict {
	api := control.NewClient(data)
	defer api.Close()
	ctx2, cancel := context.WithTimeout(ctx, c.Deadline)
	defer cancel()
	manager := newManager(c.Build)
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	answers := make(chan error, 1)
	asking, good, last := false, 0, error(nil)
	for {
		select {
		case err := <-c.ended:
			c.gone = true
			if err == nil {
				return verdict{reason: "it ended by itself, without an error"}
			}
			return verdict{reason: "it ended: " + err.Error()}
		case <-ctx2.Done():
			if ctx.Err() != nil {
				return verdict{again: true, reason: "the agent was told to end in the trial"}
			}
			if last == nil {
				last = errors.New("it answers nothing")
			}
			return verdict{reason: fmt.Sprintf("it was not well within %v: %v", c.Deadline, last)}
		case <-tick.C:
			manager.alive()
			if !asking {
				asking = true
				go func() { answers <- c.ask(ctx2, api) }()
			}
		case err := <-answers:
			asking = false
			if err != nil {
				good = 0
				if ctx2.Err() == nil || last == nil {
					last = err
				}
				break
			}
			if good++; good >= probes {
				return verdict{well: true}
			}
		}
	}
}

// ask asks what people ask an agent, and compares it with what was known before.
func (c *candidate) ask(ctx context.Context, api *control.Client) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	info, err := api.Info(ctx)
	if err != nil {
		return err
	}
	s, err := api.Status(ctx, false)
	if err != nil {
		return err
	}
	b := c.Before
	switch {
	case info.PID != c.cmd.Process.Pid:
		return fmt.Errorf("process %d answers, and it is process %d", info.PID, c.cmd.Process.Pid)
	case info.ID != b.Node || info.Name != b.Name || info.Class != b.Class || s.Cluster != b.Cluster:
		return fmt.Errorf("it answers as node %s %q of class %q, cluster %s; the node is %s %q of class %q, cluster %s",
			info.ID.Short(), info.Name, info.Class, s.Cluster.Short(), b.Node.Short(), b.Name, b.Class, b.Cluster.Short())
	case s.Head < b.Head:
		return fmt.Errorf("it knows releases up to %d only, and there are %d", s.Head, b.Head)
	}
	peers := false
	own := (*control.NodeStatus)(nil)
	for i, n := range s.Nodes {
		if n.ID == b.Node {
			own = &s.Nodes[i]
		} else {
			peers = peers || n.Reachable
		}
	}
	switch {
	case own == nil:
		return errors.New("it does not know its own node")
	case own.Number < b.Number:
		return fmt.Errorf("its node's record has number %d, and number %d was told", own.Number, b.Number)
	case own.Running != b.Running:
		return fmt.Errorf("its node runs version %d, and ran %d", own.Running, b.Running)
	case b.Peers && !peers:
		return errors.New("it hears none of its peers")
	}
	return nil
}

// stop has a candidate end in good order, and finds fault with one that does not.
func (c *candidate) stop(v verdict) verdict {
	if c.gone {
		return v
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		v.well, v.reason = false, joined(v.reason, "it cannot be told to end: "+err.Error())
	}
	timeout := time.NewTimer(stopTime)
	defer timeout.Stop()
	select {
	case err := <-c.ended:
		c.gone = true
		if err != nil {
			v.well, v.reason = false, joined(v.reason, "told to end, it ended with "+err.Error())
		}
	case <-timeout.C:
		c.kill()
		v.well, v.reason = false, joined(v.reason, fmt.Sprintf("told to end, it did not within %v", stopTime))
	}
	return v
}

// kill ends the candidate, and nothing that it has started.
func (c *candidate) kill() {
	if c.gone {
		return
	}
	_ = c.cmd.Process.Kill() // it has ended, or does
	<-c.ended
	c.gone = true
}

// manager is the service manager: this process speaks to it for the candidate, which is not
// the one that it has started. It ends the process when the watchdog gets no sign of life: the
// trial itself is bounded by its deadline.
type manager struct {
	said, next time.Time
	every      time.Duration
	status     string
}

func newManager(b Build) *manager {
	m := &manager{status: strings.ReplaceAll(fmt.Sprintf("%v of the agent is on trial", b), "\n", " ")}
	if limit, err := daemon.SdWatchdogEnabled(false); err == nil {
		m.every = limit / 2
	}
	return m
}

func (m *manager) alive() {
	now := time.Now()
	text := ""
	if m.said.IsZero() {
		text = "READY=1\nSTATUS=" + m.status
	}
	if m.every > 0 && !now.Before(m.next) {
		text += "\n" + daemon.SdNotifyWatchdog
	}
	if text == "" {
		return
	}
	if _, err := daemon.SdNotify(false, text); err == nil {
		m.said, m.next = now, now.Add(m.every)
	}
}
