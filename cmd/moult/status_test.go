package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"moult/agent/control"
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
	_, err := waitStatus(ctx, control.NewClient(t.TempDir()), 1, time.Hour)
	if code, hint := classify(err); code != exitFailed || !strings.Contains(err.Error(), "interrupted") || hint == "" {
		t.Errorf("%v, exit %d", err, code)
	}
}
