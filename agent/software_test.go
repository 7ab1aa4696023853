package agent

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/agent/config"
	"moult/agent/home"
	"moult/agent/process"
	"moult/agent/upgrade"
	"moult/store/bundle"
)

// adopting has a configuration adopt software of a version, which is a command
// of the shell. Its health check is a program of the state folder.
func adopting(t *testing.T, cfg config.Config, v bundle.Version, script string) config.Config {
	t.Helper()
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, "ok"), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	h := config.DefaultHealth()
	h.Exec, h.HealthyDeadline = []string{"./ok"}, bundle.Duration(20*time.Second)
	cfg.Adopt = &config.Adopt{
		Version: v, Command: []string{"/bin/sh", "-c", script}, State: state, Health: h,
		Services: map[string]bundle.Service{"api": {Protocol: bundle.ProtocolHTTP}},
	}
	return cfg
}

// newSoftwareBench opens an agent whose software ends with the test.
func newSoftwareBench(t *testing.T, cfg config.Config) *bench {
	t.Helper()
	b := newBench(t, cfg, 0)
	endSoftware(t, cfg.Data)
	return b
}

// endSoftware has the software of the node of a data folder end with the test.
func endSoftware(t *testing.T, data string) {
	t.Helper()
	t.Cleanup(func() {
		key, err := home.ReadIdentity(data)
		if err != nil {
			t.Error(err)
			return
		}
		left, err := process.FindOrphans(bundle.NodeIDOf(key.Public().(ed25519.PublicKey)).String())
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
}

func (b *bench) launched(v bundle.Version) int {
	b.t.Helper()
	if err := b.launch(b.t.Context(), v); err != nil {
		b.t.Fatal(err)
	}
	return b.soft.PID()
}

const sleeper = "exec sleep 1000"

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
		b.close()
		setEgress(t, cfg, taken)

		again := newSoftwareBench(t, cfg)
		if host := again.layer.EgressURL().Host; host == taken {
			t.Errorf("software runs: %v: egress at %s, which is taken", running, host)
		}
		if n := again.alarmed(taken); (n == 1) != running {
			t.Errorf("software runs: %v: %d alarms: %q", running, n, again.node.Alarms())
		}
		again.close()
	}
}

// setEgress has the record of the software say that it was given another proxy.
func setEgress(t *testing.T, cfg config.Config, addr string) {
	t.Helper()
	record, path := map[string]any{}, filepath.Join(cfg.Data, ProcessFile)
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &record)
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	record["egress"] = addr
	delete(record, "sum")
	if err == nil {
		data, err = json.Marshal(record)
	}
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The address that running software knows is taken again, with the credentials that it
// knows, if any. Each agent has others where no software runs.
func TestEgressPortKept(t *testing.T) {
	seen := map[string]bool{}
	for _, open := range []bool{false, true} {
		cfg := adopting(t, benchConfig(t), 1, sleeper)
		cfg.EgressOpen = open
		b := newSoftwareBench(t, cfg)
		b.launched(1)
		url := b.layer.EgressURL()
		if (url.User == nil) != open || seen[url.User.String()] {
			t.Errorf("open: %v: egress by %s", open, url)
		}
		seen[url.User.String()] = true
		if !slices.Contains(b.soft.Environment(), "HTTP_PROXY="+url.String()) {
			t.Errorf("the software is not told of %s", url)
		}
		b.close()
		cfg.EgressOpen = !open
		again := newSoftwareBench(t, cfg)
		if got := again.layer.EgressURL(); got.String() != url.String() {
			t.Errorf("egress by %s, the software knows %s", got, url)
		}
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
	if err := b.launch(t.Context(), 2); err == nil || !strings.Contains(err.Error(), "service api") || !strings.Contains(err.Error(), "admin") {
		t.Errorf("launch = %v, want that the node has a service api", err)
	}
	if pid := b.soft.PID(); pid != 0 {
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

// soon waits until something is so, of which nobody tells.
func (b *bench) soon(what string, so func() bool) {
	b.t.Helper()
	deadline, tick := time.After(20*time.Second), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for done := false; ; {
		if b.do(func() { done = so() }); done {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			b.t.Fatal("not in time: " + what)
		}
	}
}

// Nobody asks the software for facts while the node is down: who asks has let go before the
// software is stopped, and none follows. Once the node is up again they are asked for as before.
func TestNoFactsWhileDown(t *testing.T) {
	b := newSoftwareBench(t, adopting(t, benchConfig(t), 1, sleeper))
	begun := filepath.Join(t.TempDir(), "begun")
	isAsked := func() bool { return os.Remove(begun) == nil }
	up := upgrade.State{Phase: upgrade.Current, Version: 1, Running: 1, Served: true}
	runs := func() {
		b.in(up)
		b.releases(1, 1, func(_ bundle.Version, cu *bundle.ClassUpgrade) {
			cu.Facts = map[string]bundle.Fact{"n": {
				Exec:  []string{"/bin/sh", "-c", `: >"$0"; exec sleep 1000`, begun},
				Every: bundle.Duration(time.Hour), Timeout: bundle.Duration(time.Hour),
			}}
		})
		b.sample()
	}
	b.launched(1)
	b.do(runs)
	b.soon("the software is asked", isAsked)

	down := upgrade.State{Phase: upgrade.Draining, Version: 1, Running: 1, Served: true, Goal: 2, Path: []bundle.Version{2}, Step: 1}
	var asks <-chan struct{}
	held := make(chan struct{})
	b.do(func() {
		b.in(down)
		b.sample()
		asks, b.sampled = b.sampled, held
	})
	stopped := make(chan error, 1)
	go func() { stopped <- b.stopSoftware(t.Context()) }()
	b.soon("callers are held", func() bool { return !b.node.GateFor(down).Open })
	b.do(func() {
		if b.soft.PID() == 0 {
			t.Error("the software is stopped while it is asked for facts")
		}
		b.sample()
		if b.sampling.cancel != nil {
			t.Error("facts are asked for while the node is down")
		}
	})
	<-asks
	close(held)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}

	b.do(func() {
		b.in(up)
		delete(b.node.Manifests(), 1) // it is started as it was: adopted
	})
	b.launched(1)
	b.do(runs)
	b.soon("the software is asked again", isAsked)
}
