package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"moult/agent/account"
	"moult/agent/account/bounds"
	"moult/agent/account/sandbox"
	"moult/store/bundle"
)

var (
	// ErrGone is returned where the process of a Handle has ended.
	ErrGone = errors.New("the process has ended")
	// ErrClosed is returned by what waits while Close is called.
	ErrClosed = errors.New("the process is not watched any more")
)

// Spec says what to run and how to look after it.
type Spec struct {
	// Dir is the folder to run in. Argv[0], where it has a slash and is not
	// absolute, is below Dir. Env is the whole environment, but for
	// NOTIFY_SOCKET, MOULT_NODE and what Sockets need.
	Dir  string
	Argv []string
	Env  []string
	// Account is whose the software and its checks are; nil: the agent's. Former are
	// users whose it may have been before.
	Account *account.Account
	Former  []int
	// Bounds are what the software and its checks are held to; nil: nothing.
	Bounds *bounds.Bounds
	// Sandbox is what they work in; nil: nothing.
	Sandbox *sandbox.Sandbox
	// Marker identifies the node among all those of the machine; see FindOrphans.
	Marker string

	// LogPath gets standard output and error. LogMax bounds its length in
	// bytes, LogKeep the number of older files; 0: the defaults.
	LogPath string
	LogMax  int64
	LogKeep int

	// Health says how to ask; HealthAddr is the host:port to ask by HTTP or
	// TCP. NotifySocket is where to listen for READY=1, if Health.Notify.
	// DialControl is the net.Dialer's ControlContext of these checks, or nil.
	Health       bundle.Health
	HealthAddr   string
	NotifySocket string
	DialControl  func(ctx context.Context, network, addr string, c syscall.RawConn) error

	// Sockets are listening sockets that the software inherits, in this order,
	// as socket activation has it (see the package documentation). They stay
	// the caller's, who closes them when Start has returned.
	Sockets []Socket
	// Held are files that the software keeps open for the next agent, behind the
	// Sockets. Nobody tells it of them.
	Held []*os.File
	// Cgroup is the folder of the cgroup v2 in which the software begins; "" is
	// the agent's own. Linux only.
	Cgroup *os.File

	// OnStart gets the Handle right after the fork. Its error kills the process
	// and is returned by Start. It may be nil.
	OnStart func(Handle) error

	Log *slog.Logger // nil: none
}

// Process is node software that runs, or has run. It is safe for concurrent
// use. Its goroutines end when the software ends, or by Close.
type Process struct {
	spec   Spec
	handle Handle
	ref    *ref
	child  *os.Process // nil where it was adopted
	check  func(context.Context) error
	notify *notifier // nil where it does not use sd_notify
	logs   *logFile  // nil where there is none
	kills  uint64    // of the kernel, in its group, before it ran

	term   sync.Once
	close  sync.Once
	closed chan struct{}
	work   sync.WaitGroup

	done chan struct{}
	exit Exit // set before done is closed
}

// Exit says how a process ended.
type Exit struct {
	// Code is the exit status, -1 where a signal ended it. Signal is that
	// signal's name. Neither is known (Known is false) of a process that was
	// adopted: only its parent is told.
	Code   int
	Signal string
	Known  bool
	// Text says it to people.
	Text string
}

func (e Exit) String() string { return e.Text }

// Start starts the software. What still runs with the same Spec.Marker is
// stopped first: an agent that knew of it would have adopted it, and two must
// not share a state folder. When Start returns an error, nothing runs.
func Start(spec Spec) (*Process, error) {
	if err := spec.checkStart(); err != nil {
		return nil, err
	}
	if err := stopMarked(spec.Marker, spec.Cgroup, append(spec.Account.Users(), spec.Former...)); err != nil {
		return nil, fmt.Errorf("start %q: stop what an earlier agent left running: %w", spec.Argv[0], err)
	}
	p, err := newProcess(spec)
	if err != nil {
		return nil, fmt.Errorf("start %q: %w", spec.Argv[0], err)
	}
	if err := p.start(); err != nil {
		p.notify.stop()
		return nil, fmt.Errorf("start %q in %s: %w", spec.Argv[0], spec.Dir, err)
	}
	p.watch()
	if spec.OnStart != nil {
		if err := spec.OnStart(p.handle); err != nil {
			_, stopErr := p.Stop(context.Background(), 0)
			return nil, fmt.Errorf("start %q: %w", spec.Argv[0], errors.Join(err, stopErr))
		}
	}
	return p, nil
}

// Adopt takes over a process that an earlier agent started. It returns ErrGone
// where that process has ended, also if another has its number by now. Of the
// spec it needs only what its caller will use: Health for the Await methods,
// LogPath for rotation.
func Adopt(h Handle, spec Spec) (*Process, error) {
	r, err := openHandle(h)
	if err != nil {
		return nil, fmt.Errorf("adopt process %d: %w", h.PID, err)
	}
	p, err := newProcess(spec)
	if err != nil {
		r.close()
		return nil, fmt.Errorf("adopt process %d: %w", h.PID, err)
	}
	p.ref, p.handle = r, h
	p.notify.recall(h)
	p.watch()
	return p, nil
}

func newProcess(spec Spec) (*Process, error) {
	if spec.Log == nil {
		spec.Log = slog.New(slog.DiscardHandler)
	}
	p := &Process{spec: spec, kills: spec.Bounds.InGroup().Kills(), done: make(chan struct{}), closed: make(chan struct{})}
	if spec.LogPath != "" {
		p.logs = newLogFile(spec.LogPath, spec.LogMax, spec.LogKeep)
	}
	if spec.Health.Notify {
		n, err := listenNotify(spec.NotifySocket, spec.Account)
		if err != nil {
			return nil, err
		}
		p.notify = n
	}
	p.check = newCheck(spec, p.notify)
	return p, nil
}

func (s Spec) checkStart() error {
	if len(s.Argv) == 0 {
		return errors.New("start the node software: the command is empty")
	}
	if s.LogPath == "" {
		return fmt.Errorf("start %q: no file for its output", s.Argv[0])
	}
	if (s.Health.HTTP != "" || s.Health.TCP) && s.HealthAddr == "" {
		return fmt.Errorf("start %q: no address to ask whether it is healthy", s.Argv[0])
	}
	return CheckProgram(s.Dir, s.Argv[0])
}

// CheckProgram finds the usual mistakes, for which the kernel has one and the
// same error, whether the program, its interpreter or the folder is missing.
func CheckProgram(dir, name string) error {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fmt.Errorf("start %q: its folder %q is missing", name, dir)
	}
	if !strings.Contains(name, "/") {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("start %q: no such program in PATH; a program of the artifact is written ./%s", name, name)
		}
		return nil
	}
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("start %q: %s does not exist; check the release's command and artifact", name, path)
	case err != nil:
		return fmt.Errorf("start %q: %w", name, err)
	case info.IsDir():
		return fmt.Errorf("start %q: %s is a folder, not a program", name, path)
	case info.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("start %q: %s is not executable; set its permission before the bundle is built", name, path)
	}
	return nil
}

func (p *Process) start() error {
	out, err := p.logs.open()
	if err != nil {
		return err
	}
	defer out.Close()
	dir, argv := p.spec.Bounds.Begin(p.spec.Dir, p.spec.Argv)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = p.environment()
	if err := pass(cmd, p.spec.Sockets, p.spec.Held); err != nil {
		return err
	}
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = newSession()
	if p.spec.Cgroup != nil {
		if err := beginIn(cmd.SysProcAttr, p.spec.Cgroup); err != nil {
			return err
		}
	}
	if err := p.spec.Bounds.Wrap(cmd); err != nil {
		return err
	}
	if err := p.spec.Account.Start(p.spec.Bounds.InGroup(), p.spec.Sandbox, cmd); err != nil {
		return err
	}
	p.child = cmd.Process
	if p.handle, p.ref, err = openChild(cmd.Process.Pid); err != nil {
		err = fmt.Errorf("watch process %d: %w", cmd.Process.Pid, err)
		killErr := cmd.Process.Kill()
		_, waitErr := cmd.Process.Wait()
		return errors.Join(err, killErr, waitErr)
	}
	p.notify.expect(p.handle)
	return nil
}

func (p *Process) environment() []string {
	env := append([]string{}, p.spec.Env...)
	if p.notify != nil {
		env = append(env, "NOTIFY_SOCKET="+p.spec.NotifySocket)
	}
	if p.spec.Marker != "" {
		env = append(env, markerEntry(p.spec.Marker))
	}
	return env
}

// watch starts the goroutines that look after a running process.
func (p *Process) watch() {
	p.work.Go(p.awaitEnd)
	if p.notify != nil {
		p.work.Go(func() { p.notify.serve(p.spec.Log) })
	}
	if p.logs != nil {
		p.work.Go(p.keepLogs)
	}
}

func (p *Process) awaitEnd() {
	state, ended := p.ref.await(p.closed, p.child, p.endSession)
	p.notify.stop()
	if !ended {
		return
	}
	p.exit = describe(state)
	if why := p.spec.Bounds.InGroup().Killed(p.kills, p.exit.Signal == "SIGKILL" || !p.exit.Known); why != "" {
		if p.exit.Code >= 0 {
			why = p.exit.Text + "; " + why
		}
		p.exit.Text = why
	}
	close(p.done)
}

// endSession kills what the software's first process has left behind.
func (p *Process) endSession() {
	if err := killSession(p.handle); err != nil {
		p.spec.Log.Error("processes of the node software do not end", "session", p.handle.PID, "err", err)
	}
}

func describe(state *os.ProcessState) Exit {
	if state == nil {
		return Exit{Code: -1, Text: "ended; an earlier agent had started it, so its exit status is not known"}
	}
	e := Exit{Code: state.ExitCode(), Known: true, Text: state.String()}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Signal = signalName(ws.Signal())
		e.Text = "ended by signal " + e.Signal
	}
	return e
}

func (p *Process) keepLogs() {
	tick := time.NewTicker(logPoll)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-p.closed:
			return
		case <-tick.C:
			if err := p.RotateLogs(); err != nil {
				p.spec.Log.Warn("output of the node software not rotated", "err", err)
			}
		}
	}
}

// RotateLogs starts a new log file if the present one has outgrown its bound.
// It is also done from time to time without being called.
func (p *Process) RotateLogs() error {
	if p.logs == nil {
		return nil
	}
	return p.logs.rotateIfLong()
}

// LogTail returns the last n lines of the process's output, at most 64 KiB;
// empty if there is none or it cannot be read.
func (p *Process) LogTail(n int) string {
	if p.logs == nil {
		return ""
	}
	return p.logs.tail(n)
}

// Handle returns what Adopt needs.
func (p *Process) Handle() Handle { return p.handle }

// Done is closed when the software has ended, with its whole session.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how the software ended. It is the zero Exit until Done is closed.
func (p *Process) Exit() Exit {
	select {
	case <-p.done:
		return p.exit
	default:
		return Exit{}
	}
}

// Stop ends the software: SIGTERM to its first process, and SIGKILL to its
// whole session if it has not ended after drain (at once if drain is not above
// 0). Stopping what has ended returns its Exit. When ctx ends first, the
// software may still be draining. Stop may be called again, and at once by
// several goroutines; SIGTERM is sent once.
func (p *Process) Stop(ctx context.Context, drain time.Duration) (Exit, error) {
	if drain > 0 {
		p.term.Do(func() { p.signal(syscall.SIGTERM) })
		if ended, err := p.awaitDone(ctx, drain); ended || err != nil {
			return p.Exit(), err
		}
		p.spec.Log.Warn("node software killed: it did not end by itself", "pid", p.handle.PID, "drainTimeout", drain)
	}
	p.signal(syscall.SIGKILL)
	p.endSession()
	ended, err := p.awaitDone(ctx, killWait)
	if err == nil && !ended {
		err = fmt.Errorf("process %d has not ended %s after SIGKILL: it may wait for a disk; look at its state with ps", p.handle.PID, killWait)
	}
	return p.Exit(), err
}

func (p *Process) signal(sig syscall.Signal) {
	select {
	case <-p.done:
		return
	default:
	}
	if err := p.ref.signal(sig); err != nil && !errors.Is(err, syscall.ESRCH) && !errors.Is(err, os.ErrClosed) {
		p.spec.Log.Error("node software not signalled", "pid", p.handle.PID, "signal", signalName(sig), "err", err)
	}
}

// awaitDone waits for the end, at most for d.
func (p *Process) awaitDone(ctx context.Context, d time.Duration) (bool, error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.done:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-p.closed:
		return false, ErrClosed
	case <-ctx.Done():
		return false, fmt.Errorf("stop process %d: %w", p.handle.PID, context.Cause(ctx))
	}
}

// Close stops looking after the software, which goes on. It is for an agent
// that is about to end: Done stays open from then on. Close may be called
// twice, and returns when every goroutine has ended.
func (p *Process) Close() error {
	p.close.Do(func() {
		close(p.closed)
		p.ref.close()
		p.notify.stop()
	})
	p.work.Wait()
	return nil
}
