package process

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"moult/store/bundle"
	"moult/testdata/kit"
)

// killedAgent runs an agent that starts the software of spec and is killed when
// that is ready (or, with TEST_DIE, before it could tell of it).
func killedAgent(t *testing.T, spec Spec, env ...string) Handle {
	t.Helper()
	agent := kit.Child(append([]string{"TEST_PROGRAM=agent", agentSpec(t, spec)}, env...)...)
	line, _, err := kit.Begin(agent)
	if err != nil {
		t.Fatal(err)
	}
	agent.Process.Kill()
	agent.Wait()
	if len(env) > 0 {
		return Handle{}
	}
	var h Handle
	if err := json.Unmarshal([]byte(line), &h); err != nil {
		t.Fatalf("the agent said %q: %v", line, err)
	}
	return h
}

func TestAdoptAfterTheAgentWasKilled(t *testing.T) {
	t.Parallel()
	spec := newSpec(t, "http")
	h := killedAgent(t, spec)
	p, err := Adopt(h, spec)
	if err != nil {
		t.Fatal(err)
	}
	defer end(t, p)
	if err := p.AwaitReady(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := get(t, spec.HealthAddr, "/pid"); got != strconv.Itoa(h.PID) || p.Handle() != h {
		t.Errorf("process %s serves, want %d", got, h.PID)
	}
	get(t, spec.HealthAddr, "/say")
	if got := p.LogTail(1); got != "said something" {
		t.Errorf("the log ends in %q", got)
	}
	exit, err := p.Stop(context.Background(), time.Minute)
	if err != nil || exit.Known || exit.Text == "" {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if got := p.LogTail(1); got != "bye" {
		t.Errorf("the log ends in %q", got)
	}
	if _, err := Adopt(h, spec); !errors.Is(err, ErrGone) {
		t.Errorf("adopted after its end: %v", err)
	}
}

// An adopted process that is killed, and not by us, is seen to end.
func TestAdoptedEnds(t *testing.T) {
	t.Parallel()
	spec := newSpec(t, "http")
	h := killedAgent(t, spec)
	p, err := Adopt(h, spec)
	if err != nil {
		t.Fatal(err)
	}
	defer end(t, p)
	proc, err := os.FindProcess(h.PID)
	if err != nil {
		t.Fatal(err)
	}
	if err := proc.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	var he *HealthError
	if err := p.AwaitHealthy(context.Background(), time.Hour); !errors.As(err, &he) || he.Exit == nil {
		t.Errorf("error: %v", err)
	}
}

// A number alone does not make a process the one that was meant: neither the
// test's own number nor a live child's with one field changed is adopted, and
// so nothing of theirs can be signalled.
func TestOnlyTheSameProcessIsAdopted(t *testing.T) {
	t.Parallel()
	p := started(t, newSpec(t, "hang"))
	same := p.Handle()
	if other, err := Adopt(same, Spec{}); err != nil {
		t.Errorf("the very same: %v", err)
	} else if err := other.Close(); err != nil {
		t.Error(err)
	}
	self, _, err := handleOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	reused := same
	reused.PID = self.PID
	later, reboot := same, same
	later.StartTicks++
	reboot.BootID = "another"
	none := same
	none.PID = 1 << 30
	zero := same
	zero.PID = 0
	for name, h := range map[string]Handle{"number used again": reused, "start time": later, "boot": reboot, "no such process": none, "zero": zero, "empty": {}} {
		if other, err := Adopt(h, Spec{}); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				other.Close()
			}
		}
		// What is left of a session that is gone is not another's processes.
		if h != zero && h != (Handle{}) {
			if err := killSession(h); err != nil {
				t.Error(err)
			}
		}
		if !kit.Alive(same.PID) {
			t.Fatalf("%s: the wrong process was killed", name)
		}
	}
}

// An agent that is killed between fork and record leaves an orphan: it is
// found, and not left to run beside the next one.
func TestOrphan(t *testing.T) {
	t.Parallel()
	spec := newSpec(t, "http")
	spec.Marker = "node-of-" + filepath.Base(spec.Dir) + spec.HealthAddr
	killedAgent(t, spec, "TEST_DIE=1")
	found, err := FindOrphans(spec.Marker)
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v, %v", found, err)
	}
	orphan := found[0]
	if other, err := FindOrphans(spec.Marker + "x"); len(other) != 0 || err != nil {
		t.Errorf("found with another marker: %v, %v", other, err)
	}
	p := started(t, spec)
	if kit.Alive(orphan.PID) {
		t.Error("the orphan runs beside the new one")
	}
	if err := p.AwaitReady(context.Background()); err != nil {
		t.Error(err)
	}
	found, err = FindOrphans(spec.Marker)
	if err != nil || len(found) != 1 || found[0] != p.Handle() {
		t.Errorf("found %v, %v; want %v", found, err, p.Handle())
	}
}

// With sd_notify, an agent's successor knows who was ready, and of whom it
// cannot know it.
func TestReadyIsRemembered(t *testing.T) {
	t.Parallel()
	spec := newSpec(t, "notify")
	spec.NotifySocket = filepath.Join(spec.Dir, "notify.sock")
	spec.Health = bundle.Health{Notify: true, Interval: second / 20}
	h := killedAgent(t, spec)
	p, err := Adopt(h, spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AwaitReady(context.Background()); err != nil {
		t.Error(err)
	}
	end(t, p)

	spec.Env[0] = "TEST_PROGRAM=hang"
	spec.Health.HealthyDeadline = second / 10
	q := started(t, spec)
	var he *HealthError
	if err := q.AwaitReady(context.Background()); !errors.As(err, &he) {
		t.Errorf("another process's record counted: %v", err)
	}
	if _, err := os.Stat(q.notify.record()); err == nil {
		t.Error("the record of an earlier process was kept")
	}
	p.notify.handle = h
	if err := p.notify.write(); err != nil {
		t.Fatal(err)
	}
	q.notify.recall(q.Handle())
	if q.notify.check() == nil {
		t.Error("the record of an earlier process counted")
	}
}
