package child

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"moult/agent/account"
	"moult/agent/account/cgroup"
	"moult/agent/account/sandbox"
	"moult/transforms/stray"
)

// Child is a process with all that it starts: a session of its own.
type Child struct {
	cmd  *exec.Cmd
	who  *account.Account
	mark string // NAME=value that all its processes have in their environment

	group *cgroup.Group
	kills uint64 // of the kernel, in the group, before it ran

	last lastWords

	mu     sync.Mutex
	reaped bool  // its number may be another's by now
	blame  error // why it was killed, if it was

	done chan struct{}
	err  error // set before done is closed
}

// Start is StartAs of this process's own user.
func Start(cmd *exec.Cmd, mark string, log *slog.Logger) (*Child, error) {
	return StartAs(nil, nil, nil, cmd, mark, log)
}

// StartAs starts cmd as an account's, in a group and a sandbox or, by nil, in none, whose processes all inherit mark; output gets
// what it writes. What still runs with the same mark, of an agent that was killed, is
// ended first: two must not share a folder.
func StartAs(who *account.Account, group *cgroup.Group, box *sandbox.Sandbox, cmd *exec.Cmd, mark string, log *slog.Logger) (*Child, error) {
	if err := stray.End(mark, who.Users()...); err != nil {
		return nil, fmt.Errorf("end what an earlier agent left running: %w", err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = in, in
	cmd.Env = append(cmd.Env, mark)
	cmd.SysProcAttr = newSession()
	endWithParent(cmd.SysProcAttr)
	who.Dress(cmd)
	begun, err := group.Begin(cmd.SysProcAttr)
	if err != nil {
		return nil, errors.Join(err, out.Close(), in.Close())
	}
	defer begun()
	c := &Child{cmd: cmd, who: who, group: group, kills: group.Kills(), mark: mark, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		if err := who.RunIn(group, box, func() error {
			c.run(started, out, log)
			return nil
		}); err != nil {
			started <- err
		}
	}()
	err = <-started
	in.Close()
	if err != nil {
		out.Close()
		return nil, err
	}
	return c, nil
}

// Done is closed once the whole session has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// Err says how the session has ended, and waits for that.
func (c *Child) Err() error {
	<-c.done
	return c.err
}

// PID is the process's number, for people.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Kill ends the whole session because of blame, which becomes its error. It does
// not wait.
func (c *Child) Kill(blame error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blame == nil {
		c.blame = blame
	}
	c.signal(syscall.SIGKILL)
}

// signal sends to the process group; it is called with mu.
func (c *Child) signal(sig syscall.Signal) {
	if !c.reaped {
		signalGroup(c.cmd.Process.Pid, sig)
	}
}

var errAsked = errors.New("it was asked to end")

// end asks the process to end, kills it after grace, and returns when all of it
// is gone.
func (c *Child) end(grace time.Duration) {
	c.mu.Lock()
	if c.blame == nil {
		c.blame = errAsked
	}
	if !c.reaped {
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
	}
	c.mu.Unlock()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		c.Kill(errAsked)
		<-c.done
	}
}

// finish sets how the process ended.
func (c *Child) finish(waitErr, strayErr error) {
	c.mu.Lock()
	blame := c.blame
	c.mu.Unlock()
	switch {
	case blame != nil:
		c.err = blame
	case waitErr != nil:
		if why := c.group.Killed(c.kills, c.cmd.ProcessState.ExitCode() < 0); why != "" {
			waitErr = errors.New(why)
		}
		c.err = fmt.Errorf("it ended: %w", waitErr)
		if words := c.last.String(); words != "" {
			c.err = fmt.Errorf("it ended: %w; it wrote: %s", waitErr, words)
		}
	default:
		c.err = errors.New("it ended by itself (exit status 0)")
	}
	if strayErr != nil {
		c.err = errors.Join(c.err, strayErr)
	}
	close(c.done)
}

// Become becomes a program, which ends with the parent as this process does; it
// returns only where that fails.
func Become(path string, argv, env []string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := endThreadWithParent(); err != nil {
		return err
	}
	return &os.PathError{Op: "exec", Path: path, Err: syscall.Exec(path, argv, env)}
}
