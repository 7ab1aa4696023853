package upgrade

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"moult/gossip/view"
	"moult/store/bundle"
)

// TestScripts runs the interleavings in testdata. Commands:
//
//	new [adopted=V]          a fresh machine
//	new restored=V settled=V one whose journal is lost; turn=N: it has promised to go by
//	                         that turn of the order of what was settled
//	target goal=V path=V,…   and the other events, by their names in lower case;
//	                         those that answer an action take its step, or
//	                         step=N for another
//	reminded [turned=RELEASE/TURN/DONE] …
//	crash                    the machine is made again from the last saved state
//	crash unsaved            the same, before the present Todo was saved
//	state                    prints the state
//
// Every command but state prints the Todo and, but for "hold" at its end, saves
// and advances.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{}
		datadriven.RunTest(t, path, s.run)
	})
}

type script struct {
	m     *Machine
	saved State
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "new":
		s.saved = State{}
		if v, ok := versionArg(t, d, "adopted"); ok {
			s.saved = Adopted(v)
		}
		if v, ok := versionArg(t, d, "restored"); ok {
			settled, _ := versionArg(t, d, "settled")
			turn, _ := versionArg(t, d, "turn")
			p := Promises{Settled: settled}
			if turn != 0 {
				p.Turned = view.Turned{Release: settled, Turn: int(turn)}
			}
			s.saved = Restored(v, p)
		}
		s.restart(t)
	case "crash":
		if !d.HasArg("unsaved") {
			s.flush()
		}
		s.restart(t)
	case "state":
		return fmt.Sprintf("%+v\n", s.m.State())
	default:
		s.m.Step(s.event(t, d))
	}
	out := describe(s.m.Todo())
	if !d.HasArg("hold") {
		s.flush()
	}
	return out
}

func (s *script) flush() {
	if todo := s.m.Todo(); todo.Save != nil {
		s.saved = *todo.Save
	}
	s.m.Advance()
}

func (s *script) restart(t *testing.T) {
	m, err := New(s.saved)
	if err != nil {
		t.Fatal(err)
	}
	s.m = m
}

func (s *script) event(t *testing.T, d *datadriven.TestData) Event {
	step := s.m.State().Step
	if v, ok := versionArg(t, d, "step"); ok {
		step = uint64(v)
	}
	goal, _ := versionArg(t, d, "goal")
	reason := ""
	d.MaybeScanArgs(t, "reason", &reason)
	switch d.Cmd {
	case "begin":
		return Begin{}
	case "target":
		return Target{Goal: goal, Path: pathArg(t, d), Rehearse: d.HasArg("rehearse")}
	case "turn":
		release, _ := versionArg(t, d, "release")
		turn, _ := versionArg(t, d, "turn")
		before, _ := versionArg(t, d, "before")
		return Turn{Release: release, Turn: int(turn), Before: before}
	case "closed":
		return Closed{Reason: reason}
	case "withdrawn":
		return Withdrawn{Reason: reason}
	case "retry":
		return Retry{Release: goal}
	case "reminded":
		obeys, _ := versionArg(t, d, "obeys")
		settled, _ := versionArg(t, d, "settled")
		ended, _ := versionArg(t, d, "ended")
		final, _ := versionArg(t, d, "final")
		r := Reminded{Promises{Settled: settled, Obeys: obeys, EndedRelease: ended, EndedCount: 1, Final: final}}
		if text := ""; d.HasArg("turned") {
			d.ScanArgs(t, "turned", &text)
			if _, err := fmt.Sscanf(text, "%d/%d/%t", &r.Turned.Release, &r.Turned.Turn, &r.Turned.Done); err != nil {
				d.Fatalf(t, "%s: %v", text, err)
			}
		}
		return r
	case "finalize":
		release, _ := versionArg(t, d, "release")
		return Finalize{Release: release, Alone: d.HasArg("alone")}
	case "finalized":
		return Finalized{step}
	case "go":
		return Go{Goal: goal}
	case "staged":
		return Staged{step}
	case "may_rehearse":
		return MayRehearse{Goal: goal}
	case "interrupt":
		return Interrupt{}
	case "rehearsed":
		return Rehearsed{Step: step, Reason: reason}
	case "drained":
		return Drained{step}
	case "transformed":
		to, _ := versionArg(t, d, "to")
		return Transformed{step, to}
	case "ready":
		return Ready{step}
	case "admitted":
		return Admitted{step}
	case "healthy":
		return Healthy{step}
	case "recorded":
		return Recorded{step}
	case "rolledback":
		return RolledBack{step, reason}
	case "failed":
		return Failed{Step: step, Reason: reason, Later: d.HasArg("later"), Unable: d.HasArg("unable")}
	}
	t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	return nil
}

func versionArg(t *testing.T, d *datadriven.TestData, name string) (bundle.Version, bool) {
	var n uint64
	if !d.HasArg(name) {
		return 0, false
	}
	d.ScanArgs(t, name, &n)
	return bundle.Version(n), true
}

func pathArg(t *testing.T, d *datadriven.TestData) (path []bundle.Version) {
	var text string
	d.MaybeScanArgs(t, "path", &text)
	for s := range strings.SplitSeq(text, "+") {
		if s == "" {
			continue
		}
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		path = append(path, bundle.Version(v))
	}
	return path
}

func describe(todo Todo) string {
	var b strings.Builder
	if s := todo.Save; s != nil {
		fmt.Fprintf(&b, "save %s version=%d running=%d", s.Phase, s.Version, s.Running)
		if s.Goal != 0 {
			fmt.Fprintf(&b, " goal=%d path=%v done=%d", s.Goal, s.Path, s.Done)
		}
		if r := s.Rehearsed; r.Outcome != "" {
			fmt.Fprintf(&b, " rehearsed=%d:%s", r.Release, r.Outcome)
		}
		if s.Unable != 0 {
			fmt.Fprintf(&b, " unable=%d", s.Unable)
		}
		if s.Finalized != 0 {
			fmt.Fprintf(&b, " finalized=%d", s.Finalized)
		}
		if s.Final != 0 {
			fmt.Fprintf(&b, " final=%d", s.Final)
		}
		if s.Reverts != 0 {
			fmt.Fprintf(&b, " reverts=%d", s.Reverts)
		}
		if t := s.Turned; t.Turn != 0 {
			fmt.Fprintf(&b, " turned=%d/%d done=%v ended=%d", t.Release, t.Turn, t.Done, t.Ended)
		}
		if s.EndedRelease != 0 {
			fmt.Fprintf(&b, " ended=%d×%d", s.EndedRelease, s.EndedCount)
		}
		if s.Said > s.Version {
			fmt.Fprintf(&b, " claims=%d", s.Claims())
		}
		if s.Reason != "" {
			fmt.Fprintf(&b, " reason=%q", s.Reason)
		}
		b.WriteByte('\n')
	}
	for _, a := range todo.Actions {
		fmt.Fprintf(&b, "do %s\n", strings.TrimPrefix(fmt.Sprintf("%T%+v", a, a), "upgrade."))
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}
