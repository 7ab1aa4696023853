package agent

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/agent/control"
	"moult/agent/upgrade"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// letsRehearse returns why it does not, in a state.
func (j *judgeBench) letsRehearse(phase upgrade.Phase) error {
	j.t.Helper()
	s := upgrade.State{Phase: phase, Version: 1, Running: 1, Served: true, Goal: 1}
	if phase.Ahead() || phase == upgrade.Probing {
		s.Goal, s.Path = 2, []bundle.Version{2}
	}
	j.in(s)
	d, err := j.letRehearse()
	if err == nil {
		close(d.ended)
		j.work.Done()
	}
	return err
}

// TestLetRehearse: one is refused while this node has a part in a rollout, and not where
// that goes on without it for ever: the next release may be what mends it.
func TestLetRehearse(t *testing.T) {
	a := newPublisher(t)
	a.release("one")
	order := a.order(1, 0, 1, 7) // node 7 is never heard of
	j := newJudge(t, a.FirstRoot())
	j.take(a.Current())
	j.bring(a.manifests[0], order)
	for _, phase := range []upgrade.Phase{upgrade.Settled, upgrade.Held, upgrade.Fetching, upgrade.Waiting, upgrade.Probing} {
		err := j.letsRehearse(phase)
		if s := j.report().Status(nil).Release.State; s != control.StateRolling {
			t.Fatalf("the release is %s, so this test shows nothing", s)
		}
		if free := phase == upgrade.Settled || phase == upgrade.Held; free != (err == nil) {
			t.Errorf("%s: %v", phase, err)
		}
	}
}

// TestRehearsalExpired: what has expired starts nothing new, nor does it for a rehearsal.
func TestRehearsalExpired(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "trust")
	long := time.Now().AddDate(-9, 0, 0)
	if err := trust.Init(dir, trust.InitOptions{Now: long}); err != nil {
		t.Fatal(err)
	}
	f, err := trust.OpenFolder(dir, long)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	j := newJudge(t, f.FirstRoot())
	a := &publisher{Folder: f, t: t, dir: dir}
	j.take(a.release("one"))
	err = j.letsRehearse(upgrade.Current)
	refusal, ok := errors.AsType[*control.Error](err)
	if !ok || !strings.Contains(refusal.Message, "the signed metadata expired on ") || refusal.Hint != "`moult trust refresh`, then `moult trust push`" {
		t.Errorf("%v", err)
	}
}
