package status

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

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
	if got := text(Options{}.local(l)); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	l = control.Local{Name: "n1", Native: 2, Services: map[string]control.LocalService{"api": {Attach: control.Way{Kind: "steer"}}}, Egress: control.Way{Kind: "connect"}}
	const best = "callers reach service api of n1 by steer\ncalls of n1 go out by connect\n"
	if got := text(Options{}.local(l)); got != best {
		t.Errorf("of a node without objects, with the best ways: %q", got)
	}
	if got := (Options{}).local(control.Local{}); got != nil {
		t.Errorf("of nothing: %q", got)
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
	if got := text(Lines(s, Options{Now: now})); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if line := Progress(s); line != "release 2 rolling: 1 of 4 settled, 1 down, 1 waiting, 1 held" {
		t.Errorf("on a terminal: %q", line)
	}
}

func text(lines []string) string { return strings.Join(lines, "\n") + "\n" }

// many has n nodes of two classes: of each ten one is held, one away and one not well, and
// the others wait or have settled.
func many(n int) control.Status {
	s := control.Status{
		Release: control.ReleaseStatus{Version: 2, State: control.StateRolling, Reason: strings.Repeat("so it is. ", 20)},
		Alarms:  []string{"an alarm of some length, which is to be read whole on whatever terminal there may be"},
		Classes: map[bundle.Class]control.ClassStatus{"kv": {Total: n}, "front": {Total: n}},
		Local: control.Local{Name: "n1", Services: map[string]control.LocalService{"api": {Attach: control.Way{Kind: "relay", Why: "steer: " + strings.Repeat("not permitted ", 6)}}}, Objects: []control.ObjectStatus{
			{Callers: 1, Calls: 2, Release: 2, Side: control.SidePast, Kind: "compatible", Where: control.InProcess, PID: 123456, State: control.ObjectRunning, Problem: strings.Repeat("word ", 18), Counted: control.CallCount{Calls: 1e9, Last: time.Unix(1e9, 0)}},
		}},
	}
	for i := range n {
		node := control.NodeStatus{Name: fmt.Sprintf("node-%d.some.where.example", i), Class: []bundle.Class{"kv", "front"}[i%2], Version: 1, Target: 2, Phase: "waiting", Health: "well", Reachable: true}
		switch i % 10 {
		case 0:
			node.Phase, node.Reason = "held", "its new software was not healthy in time: what it said last is on a line of its own, and long"
		case 1:
			node.Reachable, node.Away, node.Reason = false, time.Unix(1e9, 0), "not heard from"
		case 2:
			node.Health, node.Reason = "not ready", strings.Repeat("checks fail ", i)
		case 3:
			node.Phase, node.Version = "settled", 2
		case 4:
			node.Phase, node.Progress, node.Reason = "fetching", 0.123, "it fetches from node-5.some.where.example, which has all of the release's chunks"
		case 5:
			node.Standing, node.Reachable = "left", false
		}
		s.Nodes = append(s.Nodes, node)
	}
	return s
}

// On a terminal no line is longer than it is wide, and what is cut is told whole.
func TestStatusFits(t *testing.T) {
	s := many(20)
	for _, width := range []int{40, 60, 80, 120, 200} {
		lines := Lines(s, Options{Width: width, Now: time.Unix(1e9+3600, 0), Color: true})
		for _, l := range lines {
			if ansi.StringWidth(l) > width {
				t.Errorf("%d columns: %q", width, l)
			}
		}
		all := squeeze(lines)
		for _, n := range s.Nodes {
			if !strings.Contains(all, squeeze([]string{n.Reason})) {
				t.Errorf("%d columns: %q is not told whole:\n%s", width, n.Reason, text(lines))
			}
		}
		for _, want := range []string{s.Alarms[0], s.Release.Reason, s.Local.Services["api"].Attach.Why} {
			if !strings.Contains(all, squeeze([]string{want})) {
				t.Errorf("%d columns: %q is not told:\n%s", width, want, text(lines))
			}
		}
	}
}

// squeeze is what lines say, without colours, breaks and blanks.
func squeeze(lines []string) string {
	return strings.Join(strings.Fields(ansi.Strip(strings.Join(lines, ""))), "")
}

// More nodes than a screen has rows are counted, and those that need a look are listed, as
// many as there is room for.
func TestStatusSummary(t *testing.T) {
	o := Options{Width: 80, Height: 40, Now: time.Unix(1e9, 0)}
	s := many(100)
	s.Local, s.Alarms, s.Release.Reason = control.Local{}, nil, ""
	lines := Lines(s, o)
	all := text(lines)
	for _, want := range []string{
		"front  1→2      waiting   40\n", "kv     1→2      fetching  10\n", "kv     1→2      waiting   30\n", "kv     1→2      held      10\n", "front  2        settled   10\n",
		"30 of the 100 nodes need a look; `moult status --all` lists every node\n", "and 15 more\n",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	listed := func(lines []string) (n int) {
		for _, l := range lines {
			if strings.HasPrefix(l, "node-") && strings.Contains(l, "1→2") {
				n++
			}
		}
		return n
	}
	if n := listed(lines); n != 15 {
		t.Errorf("%d nodes are listed:\n%s", n, all)
	}
	o.All = true
	if n := listed(Lines(s, o)); n != 90 {
		t.Errorf("with --all %d nodes are listed", n)
	}
	o.All, o.Height = false, 200
	if n := listed(Lines(s, o)); n != 90 {
		t.Errorf("on a high screen %d nodes are listed", n)
	}
	s.Nodes = slices.DeleteFunc(s.Nodes, needsLook)
	o.Height = 24
	if all := text(Lines(s, o)); !strings.Contains(all, "none of the 70 nodes needs a look; `moult status --all` lists every node\n") {
		t.Error(all)
	}
}

// Colours are those of phases, and of nothing where there are none to be.
func TestStatusColors(t *testing.T) {
	for word, want := range map[string]string{
		"settled": "32", "complete": "32", "held": "31", "aborted": "31", "failing": "31", "alarm:": "31", "waiting": "33", "fetching": "33", "rolling": "33",
		"draining": "36", "probing": "36", "current": "", "well": "", "a phase of tomorrow": "33",
	} {
		got := Options{Color: true}.paint(word, word)
		if want != "" {
			want = "\x1b[" + want + "m" + word + "\x1b[m"
		} else {
			want = word
		}
		if got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
	if all := text(Lines(many(20), Options{Width: 80})); strings.Contains(all, "\x1b") {
		t.Errorf("%q", all)
	}
}
