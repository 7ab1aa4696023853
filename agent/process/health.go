package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"moult/store/bundle"
)

// HealthError says why software did not become ready or stay healthy.
type HealthError struct {
	// Ready is true where it had to become ready, else to stay healthy.
	Ready bool
	// After is how long it was waited for or watched.
	After time.Duration
	// Exit is how it ended; nil where it still runs.
	Exit *Exit
	// Last is the last check's failure; nil where there was none.
	Last error
}

func (e *HealthError) Error() string {
	var b strings.Builder
	after := e.After.Round(time.Millisecond)
	switch {
	case e.Exit != nil && e.Ready:
		fmt.Fprintf(&b, "it ended before it was ready: %s", e.Exit)
	case e.Exit != nil:
		fmt.Fprintf(&b, "it ended %s into its healthy time: %s", after, e.Exit)
	case e.Ready:
		fmt.Fprintf(&b, "it was not ready after %s", after)
	default:
		fmt.Fprintf(&b, "it became unhealthy %s into its healthy time: %d checks in a row failed", after, failuresMax)
	}
	if e.Last != nil && e.Exit == nil {
		fmt.Fprintf(&b, "; the last check: %v", e.Last)
	}
	return b.String()
}

// Unwrap returns Last.
func (e *HealthError) Unwrap() error { return e.Last }

// AwaitReady waits for the first successful check. It returns a *HealthError
// when the software ends first, or is not ready after Health.HealthyDeadline.
// It may be called again, of an adopted process too.
func (p *Process) AwaitReady(ctx context.Context) error {
	began := time.Now()
	deadline := time.NewTimer(or(p.spec.Health.HealthyDeadline, defaultDeadline))
	defer deadline.Stop()
	var last error
	for pause := readyPoll; ; pause = min(pause*3/2, p.interval()) {
		if last = p.checkOnce(ctx); last == nil && p.running() {
			return nil
		}
		failed := &HealthError{Ready: true, After: time.Since(began), Last: last}
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
			continue
		case <-p.notify.ready():
			wait.Stop()
			continue
		case <-p.done:
			wait.Stop()
			return p.ended(failed)
		case <-deadline.C:
			failed.After = time.Since(began)
		case <-p.closed:
			wait.Stop()
			return ErrClosed
		case <-ctx.Done():
			wait.Stop()
			return context.Cause(ctx)
		}
		wait.Stop()
		return failed
	}
}

// AwaitHealthy watches software that is ready for the time d. It returns nil
// if the software runs at the end and its last check succeeded; a *HealthError
// as soon as it ends or failuresMax checks in a row fail.
func (p *Process) AwaitHealthy(ctx context.Context, d time.Duration) error {
	began := time.Now()
	failures := 0
	for {
		last := p.checkOnce(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if failures++; last == nil {
			failures = 0
		}
		after := time.Since(began)
		switch {
		case !p.running():
			return p.ended(&HealthError{After: after})
		case failures == failuresMax:
			return &HealthError{After: after, Last: last}
		case failures == 0 && after >= d:
			return nil
		}
		pause := p.interval()
		if failures == 0 && after < d {
			pause = min(pause, d-after)
		}
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
			continue
		case <-p.done:
			wait.Stop()
			return p.ended(&HealthError{After: time.Since(began)})
		case <-p.closed:
			wait.Stop()
			return ErrClosed
		case <-ctx.Done():
			wait.Stop()
			return context.Cause(ctx)
		}
	}
}

// Watch goes on asking software that is ready, every Health.Interval, but not more
// often than every minWatch. It tells when the answer changes: the failure, when
// failuresMax checks in a row have failed, and nil, when one succeeds again. It returns
// when the software has ended, when ctx has, or by Close.
func (p *Process) Watch(ctx context.Context, tell func(failure error)) {
	pause := time.NewTicker(max(p.interval(), minWatch))
	defer pause.Stop()
	for failures := 0; ; {
		select {
		case <-pause.C:
		case <-p.done:
			return
		case <-p.closed:
			return
		case <-ctx.Done():
			return
		}
		switch err := p.checkOnce(ctx); {
		case ctx.Err() != nil || !p.running():
			return
		case err == nil && failures >= failuresMax:
			tell(nil)
			failures = 0
		case err == nil:
			failures = 0
		default:
			if failures++; failures == failuresMax {
				tell(fmt.Errorf("%d checks in a row failed; the last: %w", failures, err))
			}
		}
	}
}

func (p *Process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// ended adds to an error that the software has ended.
func (p *Process) ended(e *HealthError) *HealthError {
	exit := p.Exit()
	e.Exit = &exit
	return e
}

func (p *Process) interval() time.Duration { return or(p.spec.Health.Interval, defaultInterval) }

func or(d bundle.Duration, instead time.Duration) time.Duration {
	if d > 0 {
		return time.Duration(d)
	}
	return instead
}

// checkOnce asks once, within a time that follows from the interval. The end of
// the process ends it too.
func (p *Process) checkOnce(parent context.Context) error {
	limit := min(max(p.interval(), minCheck), maxCheck)
	ctx, cancel := context.WithTimeoutCause(parent, limit, fmt.Errorf("no answer within %s", limit))
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-p.done:
			cancel()
		case <-stop:
		}
	}()
	err := p.check(ctx)
	if err != nil && ctx.Err() != nil && parent.Err() == nil && p.running() {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

// newCheck returns what asks once whether software is ready.
func newCheck(spec Spec, n *notifier) func(context.Context) error {
	h := spec.Health
	switch {
	case h.HTTP != "":
		return func(ctx context.Context) error {
			return checkHTTP(ctx, spec.dialer(), "http://"+spec.HealthAddr+h.HTTP)
		}
	case h.TCP:
		return func(ctx context.Context) error { return checkTCP(ctx, spec.dialer(), spec.HealthAddr) }
	case len(h.Exec) > 0:
		return func(ctx context.Context) error { return checkExec(ctx, spec) }
	case n != nil:
		return func(context.Context) error { return n.check() }
	}
	return func(context.Context) error { return errors.New("no health check is configured") }
}

func (s Spec) dialer() *net.Dialer { return &net.Dialer{ControlContext: s.DialControl} }

// checkHTTP wants 2xx.
func checkHTTP(ctx context.Context, d *net.Dialer, url string) error {
	_, _, err := fetch(ctx, d, url, maxCheckOutput)
	return err
}

// Get asks the software by HTTP, and returns its answer, which must be 2xx and of so many
// bytes at most.
func (s Spec) Get(ctx context.Context, url string, most int64) ([]byte, error) {
	body, whole, err := fetch(ctx, s.dialer(), url, most)
	if err == nil && !whole {
		err = fmt.Errorf("GET %s: the answer has more than %d bytes", url, most)
	}
	return body, err
}

// fetch asks for what must be there. It follows no redirect and uses no proxy: it asks this
// software and no other. Of a long answer it returns the beginning.
func fetch(ctx context.Context, d *net.Dialer, url string, most int64) (body []byte, whole bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, false, err
	}
	client := &http.Client{
		Transport:     &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, most+1))
	if whole = int64(len(body)) <= most; !whole {
		body = body[:most]
	}
	if resp.StatusCode/100 != 2 {
		return nil, false, fmt.Errorf("GET %s: %s: %s", url, resp.Status, oneLine(body[:min(len(body), maxCheckOutput)]))
	}
	return body, whole, err
}

// checkTCP wants the software to take the connection: that the kernel makes it says
// nothing of software that hangs, or that was given the listening socket.
func checkTCP(ctx context.Context, d *net.Dialer, addr string) error {
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	for pause := minTaken; ; pause = min(2*pause, maxTaken) {
		if ok, err := taken(c); ok || err != nil {
			return err
		}
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return fmt.Errorf("connect to %s: the connection was made, and the software does not accept it", addr)
		}
	}
}

func checkExec(ctx context.Context, spec Spec) error {
	out := &head{most: maxCheckOutput}
	return run(ctx, spec, spec.Health.Exec, nil, out, out)
}

// Do runs a program as the software's checks are run, whatever it prints. It has the marker of
// the software: what it leaves behind is stopped with that.
func (s Spec) Do(ctx context.Context, argv []string) error {
	out := &head{most: maxCheckOutput}
	err := run(ctx, s.marked(), argv, nil, out, out)
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil // it has exited with 0, and what it left behind still has its output
	}
	return err
}

func (s Spec) marked() Spec {
	if s.Marker != "" {
		s.Env = append(slices.Clip(s.Env), markerEntry(s.Marker))
	}
	return s
}

// Output runs a program as the software's checks are run, and returns what it prints,
// which must be so many bytes at most. It has the marker of the software: what it leaves behind
// is stopped with that.
func (s Spec) Output(ctx context.Context, argv []string, most int) ([]byte, error) {
	out, words := &head{most: most + 1}, &head{most: maxCheckOutput}
	err := run(ctx, s.marked(), argv, nil, out, words)
	if err == nil && len(out.b) > most {
		err = fmt.Errorf("%s: it prints more than %d bytes", strings.Join(argv, " "), most)
	}
	return out.b, err
}

// Feed runs a program of the operator's, not of the node, which has no marker; in is its
// standard input. It returns the first of what the program prints, in a line.
func (s Spec) Feed(ctx context.Context, argv []string, in []byte) (string, error) {
	out := &head{most: maxCheckOutput}
	err := run(ctx, s, argv, bytes.NewReader(in), out, out)
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // as for Do
	}
	return oneLine(out.b), err
}

// run runs a program as the software is run. It is killed with its process group at the
// end of ctx.
func run(ctx context.Context, spec Spec, argv []string, in io.Reader, out, words *head) error {
	if err := CheckProgram(spec.Dir, argv[0]); err != nil {
		return err
	}
	dir, argv := spec.Bounds.Begin(spec.Dir, argv)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, spec.Env
	cmd.SysProcAttr = newGroup()
	endWithParent(cmd.SysProcAttr)
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	cmd.WaitDelay = minCheck
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, words
	if err := spec.Bounds.Wrap(cmd); err != nil {
		return err
	}
	spec.Account.Dress(cmd)
	group := spec.Bounds.InGroup()
	done, err := group.Begin(cmd.SysProcAttr)
	if err != nil {
		return err
	}
	defer done()
	// The signal that ends the check with the agent is tied to the thread that
	// starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = spec.Account.RunIn(group, spec.Sandbox, cmd.Run)
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, oneLine(words.b))
	}
	return nil
}

// head keeps the first bytes that were written to it.
type head struct {
	b    []byte
	most int
}

func (h *head) Write(p []byte) (int, error) {
	h.b = append(h.b, p[:min(len(p), h.most-len(h.b))]...)
	return len(p), nil
}

func oneLine(b []byte) string {
	line := strings.Join(strings.Fields(string(bytes.ToValidUTF8(b, []byte("?")))), " ")
	if len(line) > 200 {
		line = line[:200] + "…"
	}
	return line
}
