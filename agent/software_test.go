package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/agent/process"
	"moult/agent/upgrade"
	"moult/store/bundle"
)

// adopting has a configuration adopt software of a version, which is a command
// of the shell. Its health check is a program of the state folder.
func adopting(t *testing.T, cfg Config, v bundle.Version, script string) Config {
	t.Helper()
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, "ok"), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	h := DefaultHealth()
	h.Exec, h.HealthyDeadline = []string{"./ok"}, bundle.Duration(20*time.Second)
	cfg.Adopt = &Adopt{
		Version: v, Command: []string{"/bin/sh", "-c", script}, State: state, Health: h,
		Services: map[string]bundle.Service{"api": {Protocol: bundle.ProtocolHTTP}},
	}
	return cfg
}

// newSoftwareBench opens an agent whose software ends with the test.
func newSoftwareBench(t *testing.T, cfg Config) *bench {
	t.Helper()
	b := newBench(t, cfg, 0)
	t.Cleanup(func() {
		left, err := process.FindOrphans(b.id.String())
		if err != nil {
			t.Error(err)
		}
		for _, h := range left {
			p, err := process.Adopt(h, process.Spec{})
			if err == nil {
				_, err = p.Stop(context.Background(), 0)
			}
			if err != nil && !errors.Is(err, process.ErrGone) {
				t.Error(err)
			}
		}
	})
	return b
}

func (b *bench) launched(v bundle.Version) int {
	b.t.Helper()
	if err := b.soft.launch(b.t.Context(), v); err != nil {
		b.t.Fatal(err)
	}
	return b.soft.pid()
}

func alive(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	return err == nil
}

const sleeper = "exec sleep 1000"

// Adopted software can be started, in its slot, and its health check finds its
// program there also after a restart of the agent.
func TestAdoptedSoftware(t *testing.T) {
	cfg := adopting(t, benchConfig(t), 1, sleeper)
	b := newSoftwareBench(t, cfg)
	pid := b.launched(1)
	if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || dir != b.slots.Path(1) {
		t.Errorf("it runs in %s, %v; want its slot %s", dir, err, b.slots.Path(1))
	}
	b.close()
	if !alive(pid) {
		t.Fatal("it ended with the agent")
	}
	again := newSoftwareBench(t, cfg)
	if got := again.launched(1); got != pid {
		t.Errorf("after a restart of the agent it is process %d, was %d", got, pid)
	}
}

// An agent that has lost what it was told of the software takes it over by what
// it wrote down itself, and leaves it alone where that fails.
func TestTakeOverWithoutManifest(t *testing.T) {
	cfg := adopting(t, benchConfig(t), 1, sleeper)
	b := newSoftwareBench(t, cfg)
	pid := b.launched(1)
	b.close()

	blocked := filepath.Join(cfg.Data, "notify.sock", "x")
	edit := func(f func(*processRecord)) {
		t.Helper()
		path := filepath.Join(cfg.Data, ProcessFile)
		data, err := os.ReadFile(path)
		var r processRecord
		if err == nil {
			err = json.Unmarshal(data, &r)
		}
		if err != nil {
			t.Fatal(err)
		}
		f(&r)
		if data, err = json.Marshal(r); err == nil {
			err = os.WriteFile(path, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	notify := func(on bool) {
		edit(func(r *processRecord) { r.Plan.Health.Notify, r.Plan.Health.MinHealthyTime = on, 0 })
	}
	notify(true)
	if err := os.MkdirAll(blocked, 0o700); err != nil { // nobody can listen there
		t.Fatal(err)
	}
	failing := newSoftwareBench(t, cfg)
	if err := failing.soft.launch(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "take over") {
		t.Errorf("launch = %v, want that it cannot be taken over", err)
	}
	if !alive(pid) {
		t.Fatal("software that could not be taken over was stopped")
	}
	failing.close()

	notify(false)
	cfg.Adopt = nil // from here on nothing but the record says how it is started
	again := newSoftwareBench(t, cfg)
	if got := again.launched(1); got != pid {
		t.Errorf("without a manifest it is process %d, was %d", got, pid)
	}
	if err := again.soft.probe(t.Context(), 1); err != nil || again.soft.pid() != pid {
		t.Errorf("probe = %v, process %d", err, again.soft.pid())
	}
}

// A taken egress port does not keep the agent from starting.
func TestEgressPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	for _, running := range []bool{false, true} {
		cfg := adopting(t, benchConfig(t), 1, sleeper)
		b := newSoftwareBench(t, cfg)
		if running {
			b.launched(1)
		}
		b.soft.mu.Lock()
		record := b.soft.record
		record.Egress = taken
		err := b.soft.save(record)
		b.soft.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		b.close()

		again := newSoftwareBench(t, cfg)
		if host := again.layer.EgressURL().Host; host == taken {
			t.Errorf("software runs: %v: egress at %s, which is taken", running, host)
		}
		if n := again.alarmed(taken); (n == 1) != running {
			t.Errorf("software runs: %v: %d alarms: %q", running, n, again.alarms)
		}
		again.close()
	}
}

// The address that running software knows is taken again.
func TestEgressPortKept(t *testing.T) {
	cfg := adopting(t, benchConfig(t), 1, sleeper)
	b := newSoftwareBench(t, cfg)
	b.launched(1)
	host := b.layer.EgressURL().Host
	b.close()
	again := newSoftwareBench(t, cfg)
	if got := again.layer.EgressURL().Host; got != host {
		t.Errorf("egress at %s, the software knows %s", got, host)
	}
}

// Software that no record names does not run beside a transform.
func TestDrainWithoutRecord(t *testing.T) {
	cfg := adopting(t, benchConfig(t), 1, sleeper)
	b := newSoftwareBench(t, cfg)
	pid := b.launched(1)
	b.close()
	if err := os.Remove(filepath.Join(cfg.Data, ProcessFile)); err != nil {
		t.Fatal(err)
	}
	again := newSoftwareBench(t, cfg)
	if err := again.soft.drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if alive(pid) {
		t.Error("it still runs")
	}
}

// Software that ends at once, as it does where its port was taken meanwhile, is
// started once more, and not for ever.
func TestLaunchOnceMore(t *testing.T) {
	for _, c := range []struct {
		script string
		starts int
		good   bool
	}{
		{"echo x >> starts; [ $(wc -l < starts) = 2 ] && exec sleep 1000; exit 1", 2, true},
		{"echo x >> starts; exit 1", 2, false},
	} {
		cfg := adopting(t, benchConfig(t), 1, c.script)
		cfg.Adopt.Health.Exec = []string{"/bin/sh", "-c", "false"}
		if c.good {
			cfg.Adopt.Health.Exec = []string{"/bin/sh", "-c", "[ $(wc -l < starts) = 2 ]"}
		}
		b := newSoftwareBench(t, cfg)
		if err := b.soft.launch(t.Context(), 1); (err == nil) != c.good {
			t.Errorf("%s: %v", c.script, err)
		}
		data, err := os.ReadFile(filepath.Join(b.slots.Path(1), "starts"))
		if n := strings.Count(string(data), "x"); n != c.starts || err != nil {
			t.Errorf("%s: started %d times, %v; want %d", c.script, n, err, c.starts)
		}
		b.close()
	}
}

// Software without a configured service is found out before it starts, and the
// calls of new software are its own version's from its start on.
func TestLaunchNew(t *testing.T) {
	cfg := adopting(t, benchConfig(t), 2, sleeper)
	b := newSoftwareBench(t, cfg)
	b.do(func() {
		b.in(upgrade.State{Phase: upgrade.Starting, Version: 1, Running: 1, Served: true, Goal: 2, Path: []bundle.Version{2}, Done: 1})
		b.cfg.Adopt.Services = map[string]bundle.Service{"admin": {Protocol: bundle.ProtocolHTTP}}
	})
	if err := b.soft.launch(t.Context(), 2); err == nil || !strings.Contains(err.Error(), "service api") || !strings.Contains(err.Error(), "admin") {
		t.Errorf("launch = %v, want that the node has a service api", err)
	}
	if pid := b.soft.pid(); pid != 0 {
		t.Errorf("process %d was started", pid)
	}
	b.do(func() {
		b.cfg.Adopt.Services = map[string]bundle.Service{"api": {Protocol: bundle.ProtocolHTTP}, "admin": {Protocol: bundle.ProtocolHTTP}}
	})
	b.launched(2)
	b.do(func() {
		if b.routed.Native != 1 || b.routed.Egress != 2 || !b.routed.Down {
			t.Errorf("while version 2 starts: %+v", b.routed)
		}
	})
}
