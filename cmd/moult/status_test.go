package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"moult/agent/control"
	"moult/agent/operator"
	"moult/store/bundle"
)

// What people are told of the node's own objects and ways.
func TestStatusLocal(t *testing.T) {
	last := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	l := control.Local{
		Name: "n1", Native: 2, Egress: control.Way{Kind: "proxy", Why: "connect: no cgroup2 here"},
		Services: map[string]control.LocalService{"api": {Attach: control.Way{Kind: "steer"}}, "db": {Attach: control.Way{Kind: "relay", Why: "steer:\nnot permitted"}}},
		Objects: []control.ObjectStatus{
			{Callers: 1, Calls: 2, Release: 2, Side: control.SidePast, Kind: "compatible", Where: control.InAgent, State: control.ObjectRunning},
			{Callers: 3, Calls: 2, Release: 3, Side: control.SideFuture, Kind: "exec", Where: control.InProcess, State: control.ObjectRestarting,
				Problem: "exit status 1", Restarts: 4, Observation: &control.ObservationStatus{Told: 8, Missed: 1, Waiting: 2, Whole: true, Problem: "connection refused"},
				Counted: control.CallCount{Calls: 10, Denied: 2, Errors: 1, Open: 3, Mean: bundle.Duration(1234567), Last: last}},
		},
	}
	const want = `callers reach service api of n1 by steer
callers reach service db of n1 by relay: steer: not permitted
calls of n1 go out by proxy: connect: no cgroup2 here
simulation objects of n1, which runs version 2
CALLERS  OBJECT       KIND        WHERE    STATE       CALLS  DENIED  ERRORS  MEAN    OPEN  LAST
1→2      past of 2    compatible  agent    running     0      0       0       -       0     -
3→2      future of 3  exec        process  restarting  10     2       1       1.23ms  3     2026-01-02 03:04:05
3→2: it does not answer: exit status 1
3→2: its process has been started again 4 times
3→2: it was told of 8 calls of version 2; 2 wait, 1 were missed; it cannot be told: connection refused
`
	var out strings.Builder
	if err := (statusPrinter{w: &out}).local(l); err != nil || out.String() != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out.String(), want)
	}
	out.Reset()
	l = control.Local{Name: "n1", Native: 2, Services: map[string]control.LocalService{"api": {Attach: control.Way{Kind: "steer"}}}, Egress: control.Way{Kind: "connect"}}
	const best = "callers reach service api of n1 by steer\ncalls of n1 go out by connect\n"
	if err := (statusPrinter{w: &out}).local(l); err != nil || out.String() != best {
		t.Errorf("of a node without objects, with the best ways: %q, %v", out.String(), err)
	}
	out.Reset()
	if err := (statusPrinter{w: &out}).local(control.Local{}); err != nil || out.Len() > 0 {
		t.Errorf("of nothing: %q, %v", out.String(), err)
	}
}

// A wait that is interrupted does not say that the time was up.
func TestWaitInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := followRelease(ctx, control.NewClient(t.TempDir()), operator.Goal{Release: 1}, time.Hour, nil)
	if code, hint := classify(err); code != exitFailed || !strings.Contains(err.Error(), "interrupted") || hint == "" {
		t.Errorf("%v, exit %d", err, code)
	}
}

// What people are told of the nodes: for how long they are in a phase, and out of reach.
func TestStatusNodes(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := control.Status{
		Cluster: bundle.Digest{1}, Release: control.ReleaseStatus{Version: 2, State: control.StateRolling},
		Classes: map[bundle.Class]control.ClassStatus{"kv": {Total: 4, Settled: 1, Down: 1, Waiting: 1, Held: 1, Budget: 1}},
		Nodes: []control.NodeStatus{
			{Name: "n1", Class: "kv", Version: 2, Phase: "current", Health: "well", Reachable: true, Since: now.Add(-time.Hour)},
			{Name: "n2", Class: "kv", Version: 1, Target: 2, Phase: "waiting", Health: "well", Reachable: true, Since: now.Add(-75 * time.Second), Reason: "it waits for n4"},
			{Name: "n3", Class: "kv", Version: 1, Target: 2, Runs: 2, Phase: "held", Reachable: true, Since: now.Add(-50 * time.Hour)},
			{Name: "n4", Class: "kv", Version: 1, Target: 2, Phase: "fetching", Progress: 0.5, Since: now.Add(time.Second), Away: now.Add(-3*time.Hour - time.Minute)},
			{Name: "n5", Class: "kv", Standing: "left", Phase: "current"},
		},
	}
	const want = `cluster 010000000000  release 2  rolling
class kv  1 of 4 settled, 0 not well, 1 down (budget 1), 1 waiting, 1 held
NODE  ID            CLASS  VERSION       PHASE             HEALTH  SEEN           REASON
n1    000000000000  kv     2             current           well    yes            
n2    000000000000  kv     1→2           waiting, 1m15s    well    yes            it waits for n4
n3    000000000000  kv     1→2 (runs 2)  held, 2d          -       yes            
n4    000000000000  kv     1→2           fetching 50%, 0s  -       no, for 3h01m  
n5    000000000000  kv     0             current           -       no, left       
`
	var out strings.Builder
	if err := (statusPrinter{w: &out, clock: func() time.Time { return now }}).print(s); err != nil || out.String() != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out.String(), want)
	}
	if line := progressLine(s); line != "release 2 rolling: 1 of 4 settled, 1 down, 1 waiting, 1 held" {
		t.Errorf("on a terminal: %q", line)
	}
}
