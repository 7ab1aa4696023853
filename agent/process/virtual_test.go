//go:build unix

package process

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"moult/store/bundle"
)

// fakeProcess is a process without a process: its checks come from a script,
// a check a letter, "." for success and "x" for failure; the last one repeats.
func fakeProcess(script string) *Process {
	p := &Process{done: make(chan struct{}), closed: make(chan struct{})}
	p.spec.Health = bundle.Health{Interval: second, HealthyDeadline: 10 * second}
	next := 0
	p.check = func(context.Context) error {
		c := script[min(next, len(script)-1)]
		if next++; c == 'x' {
			return fmt.Errorf("check %d", next)
		}
		return nil
	}
	return p
}

func (p *Process) fakeEnd() {
	p.exit = Exit{Code: 5, Known: true, Text: "exit status 5"}
	close(p.done)
}

func TestAwaitHealthy(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		endsAt time.Duration // 0: never
		took   time.Duration
		err    string
	}{
		"all well":            {script: ".", took: 5500 * time.Millisecond},
		"two fail, then well": {script: "..xx.", took: 5500 * time.Millisecond},
		"two and two":         {script: "xx.xx.", took: 5500 * time.Millisecond},
		"three fail":          {script: ".xxx", took: 3 * time.Second, err: "it became unhealthy 3s into its healthy time: 3 checks in a row failed; the last check: check 4"},
		"never well":          {script: "x", took: 2 * time.Second, err: "3 checks in a row"},
		"fails at the end":    {script: "......xx.", took: 7500 * time.Millisecond},
		"falls at the end":    {script: "......xxx", took: 7500 * time.Millisecond, err: "3 checks in a row"},
		"ends":                {script: ".", endsAt: 2200 * time.Millisecond, took: 2200 * time.Millisecond, err: "it ended 2.2s into its healthy time: exit status 5"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := fakeProcess(c.script)
				if c.endsAt > 0 {
					time.AfterFunc(c.endsAt, p.fakeEnd)
				}
				began := time.Now()
				err := p.AwaitHealthy(context.Background(), 5500*time.Millisecond)
				if took := time.Since(began); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
					t.Errorf("error %v, want %q", err, c.err)
				}
			})
		})
	}
}

func TestAwaitReadyInTime(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		endsAt time.Duration
		atMost time.Duration
		err    string
	}{
		"at once":         {script: "."},
		"after some":      {script: "xxx.", atMost: 200 * time.Millisecond},
		"never":           {script: "x", atMost: 10 * time.Second, err: "it was not ready after 10s; the last check: check"},
		"ends":            {script: "x", endsAt: 3 * time.Second, atMost: 3 * time.Second, err: "it ended before it was ready: exit status 5"},
		"ended, yet well": {script: ".", endsAt: 1, atMost: time.Second, err: "it ended before it was ready"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := fakeProcess(c.script)
				switch c.endsAt {
				case 0:
				case 1: // another's answer, on a port that this one could not get
					p.fakeEnd()
				default:
					time.AfterFunc(c.endsAt, p.fakeEnd)
				}
				began := time.Now()
				err := p.AwaitReady(context.Background())
				if took := time.Since(began); took > c.atMost {
					t.Errorf("took %s, want at most %s", took, c.atMost)
				}
				if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
					t.Errorf("error %v, want %q", err, c.err)
				}
			})
		})
	}
}

// A check that does not answer is given up, and counts as failed.
func TestCheckIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fakeProcess(".")
		p.check = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		err := p.AwaitHealthy(context.Background(), time.Minute)
		if err == nil || !strings.Contains(err.Error(), "no answer within 1s") {
			t.Errorf("error: %v", err)
		}
	})
}

// fakeSoftware is ready after a time (0: never) and ends after another.
type fakeSoftware struct {
	done  chan struct{}
	ready <-chan time.Time
}

func newFakeSoftware(ready, up time.Duration) *fakeSoftware {
	f := &fakeSoftware{done: make(chan struct{})}
	if ready > 0 {
		f.ready = time.After(ready)
	}
	time.AfterFunc(up, func() { close(f.done) })
	return f
}

func (f *fakeSoftware) Handle() Handle        { return Handle{PID: 1} }
func (f *fakeSoftware) Done() <-chan struct{} { return f.done }
func (f *fakeSoftware) Exit() Exit            { return Exit{Text: "exit status 5"} }
func (f *fakeSoftware) AwaitReady(ctx context.Context) error {
	select {
	case <-f.ready:
		return nil
	case <-f.done:
		return &HealthError{Ready: true}
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(30 * time.Second):
		return &HealthError{Ready: true, After: 30 * time.Second}
	}
}

// Watch has something to tell of software that is up for a minute and a half.
func (f *fakeSoftware) Watch(ctx context.Context, tell func(error)) {
	fails := time.After(90 * time.Second)
	for {
		select {
		case <-f.done:
			return
		case <-ctx.Done():
			return
		case <-fails:
			tell(errors.New("no answer"))
			tell(nil)
		}
	}
}

// What runs is asked for as long as it runs, and only changes are told.
func TestWatch(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		endsAt time.Duration
		want   []string
	}{
		"always well":        {script: "."},
		"two fail":           {script: "..xx."},
		"fails for ever":     {script: "..xxxxx", want: []string{"25s 3 checks in a row failed; the last: check 5"}},
		"comes and goes":     {script: "xxx.xxxx.", want: []string{"15s 3 checks in a row failed; the last: check 3", "20s", "35s 3 checks in a row failed; the last: check 7", "45s"}},
		"ends while failing": {script: "x", endsAt: 22 * time.Second, want: []string{"15s 3 checks in a row failed; the last: check 3"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := fakeProcess(c.script) // whose interval is a second
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				if c.endsAt > 0 {
					time.AfterFunc(c.endsAt, p.fakeEnd)
				}
				began := time.Now()
				var got []string
				p.Watch(ctx, func(err error) {
					at := time.Since(began).String()
					if err != nil {
						at += " " + err.Error()
					}
					got = append(got, at)
				})
				if !slices.Equal(got, c.want) {
					t.Errorf("told %q, want %q", got, c.want)
				}
				if c.endsAt > 0 && time.Since(began) != c.endsAt {
					t.Errorf("watched for %s, want %s", time.Since(began), c.endsAt)
				}
			})
		})
	}
}

func TestSupervisor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const s, m = time.Second, time.Minute
		lives := []struct{ ready, up time.Duration }{
			{s, 2 * s}, {s, 2 * s}, {s, 60 * s}, {0, 2 * m}, {0, s}, {s, 2 * s}, {s, 2 * s}, {s, 61 * s}, {s, 2 * s}, {0, 0}, {s, 1000 * m},
		}
		ctx, cancel := context.WithCancel(context.Background())
		var log []string
		var last *fakeSoftware
		done := make(chan struct{})
		sup := Supervisor{
			Start: func(context.Context) (Software, error) {
				l := lives[0]
				if lives = lives[1:]; len(lives) == 0 {
					time.AfterFunc(10*m, cancel)
				}
				if l.up == 0 {
					return nil, errors.New("no such file")
				}
				last = newFakeSoftware(l.ready, l.up)
				return last, nil
			},
			Observe: func(e Event) {
				switch e := e.(type) {
				case Restarting:
					log = append(log, e.In.String())
				default:
					log = append(log, strings.TrimPrefix(fmt.Sprintf("%T", e), "process."))
				}
			},
		}
		go func() { defer close(done); sup.Run(ctx) }()
		<-done
		want := strings.Fields(`
			Started Ready Ended 1s
			Started Ready Ended 2s
			Started Ready Ended 4s
			Started NotReady NotReady NotReady Ended 8s
			Started Ended 16s
			Started Ready Ended 30s
			Started Ready Ended 30s
			Started Ready Ended 1s
			Started Ready Ended 2s
			NotStarted 4s
			Started Ready Failing Passing`)
		if !slices.Equal(log, want) {
			t.Errorf("events %q\nwant   %q", log, want)
		}
		select {
		case <-last.Done():
			t.Error("the software ended with its supervision")
		default:
		}
		<-last.Done()
	})
}

func TestBackoff(t *testing.T) {
	var b backoff
	var got []time.Duration
	for _, up := range []time.Duration{0, 0, 0, 0, 0, 0, 0, time.Minute - 1, time.Minute, 0} {
		got = append(got, b.next(up)/time.Second)
	}
	if want := []time.Duration{1, 2, 4, 8, 16, 30, 30, 30, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("pauses %d, want %d", got, want)
	}
}
