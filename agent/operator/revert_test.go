package operator

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// settledAt is a status with one node that is at a release and can take it back.
func settledAt(v bundle.Version) *control.Status {
	return &control.Status{Release: control.ReleaseStatus{Version: v}, Nodes: []control.NodeStatus{
		{Name: "n1", ID: bundle.NodeID{1}, Class: "kv", Version: v, Running: v, Reachable: true, Phase: string(view.Current), Reads: view.ReadsTurns},
	}}
}

// What is taken back is the newest release also when the question is answered that is asked
// before, however long that takes.
func TestRevertAfterTheQuestion(t *testing.T) {
	_, another, _ := ordered(t, filepath.Join(kit.MemDir(t), "trust"), 3)
	f, p, api := ordered(t, filepath.Join(kit.MemDir(t), "trust"), 2)
	p.status = settledAt(2)
	r := Reversal{Confirm: func(*schedule.Order, Concerned) error {
		p.Orders[3] = another.Orders[3]
		return nil
	}}
	if _, _, err := New(f).Revert(t.Context(), api, r); err == nil || !strings.Contains(err.Error(), "release 3 is newer") {
		t.Errorf("release 3 has got an order meanwhile: %v", err)
	}
	if p.order(t, 2).Turn != 0 {
		t.Error("release 2 is taken back under the order of release 3")
	}
}

// What is finalized is the order that was looked at: another may lead elsewhere by the time
// that the question is answered.
func TestFinalizeAfterTheQuestion(t *testing.T) {
	for _, change := range []func(*schedule.Order) (*schedule.Order, error){nil, (*schedule.Order).Pause} {
		f, p, api := ordered(t, filepath.Join(kit.MemDir(t), "trust"), 2)
		p.status = settledAt(2)
		_, _, err := New(f).Finalize(t.Context(), api, 2, func(order *schedule.Order, _ control.Status) error {
			if change == nil {
				return nil
			}
			_, _, err := New(f).Change(t.Context(), api, 2, Change{Name: "pause", Apply: change})
			return err
		})
		if change == nil && (err != nil || !p.order(t, 2).Finalized) {
			t.Errorf("nothing has changed: finalized %v, %v", p.order(t, 2).Finalized, err)
		}
		if change != nil && (err == nil || !strings.Contains(err.Error(), "signed meanwhile") || p.order(t, 2).Finalized) {
			t.Errorf("another order was signed: finalized %v, %v", p.order(t, 2).Finalized, err)
		}
	}
}

// A node that says that it has finalized a release keeps it from being taken back only where the
// release asks for that.
func TestFinalAlone(t *testing.T) {
	o, s := &schedule.Order{Release: 2, Classes: map[bundle.Class]schedule.ClassOrder{"kv": {Roster: []bundle.NodeID{{1}}}}}, settledAt(2)
	s.Nodes[0].Final = 2
	if name := finalAlone(o, *s); name != "" {
		t.Errorf("without finalize_after %s has finalized it", name)
	}
	if o.FinalizeAfter = 1; finalAlone(o, *s) != "n1" {
		t.Error("n1 has finalized it")
	}
}

// What cannot be finalized is refused before anybody is asked, and as a refusal.
func TestFinalizeRefusedBeforeTheQuestion(t *testing.T) {
	_, p, _ := ordered(t, filepath.Join(kit.MemDir(t), "trust"), 2)
	halves := *p.order(t, 2)
	halves.Joined = &schedule.Joined{Open: true}
	var refused *control.Error
	if err := mayFinalize(&halves, *settledAt(2)); !errors.As(err, &refused) || refused.Kind != control.KindRefused || !strings.Contains(err.Error(), "two halves") {
		t.Errorf("two halves that were joined: %v", err)
	}
}

// A node that the order does not name, and whose agent does not read orders that turn, gets no
// place in one: it would never say that it has turned, and be waited for.
func TestRevertLeavesOldAgentsOut(t *testing.T) {
	f, p, api := ordered(t, filepath.Join(kit.MemDir(t), "trust"), 2)
	p.status = settledAt(2)
	old, newer := p.status.Nodes[0], p.status.Nodes[0]
	old.Name, old.ID, old.Version, old.Running, old.Reads = "old", bundle.NodeID{7}, 1, 1, view.ReadsTurns-1
	newer.Name, newer.ID, newer.Version, newer.Running = "newer", bundle.NodeID{8}, 1, 1
	p.status.Nodes = append(p.status.Nodes, old, newer)
	if _, _, err := New(f).Revert(t.Context(), api, Reversal{}); err != nil {
		t.Fatal(err)
	}
	if o := p.order(t, 2); o.Turn != 1 || o.Names("kv", old.ID) || !o.Names("kv", newer.ID) {
		t.Errorf("turn %d, roster %v", o.Turn, o.Classes["kv"].Roster)
	}
}

// A release that was handed in without an order, which the agent shows then, is in nobody's way.
func TestRevertBesideOneWithoutOrder(t *testing.T) {
	f, p, api := ordered(t, filepath.Join(kit.MemDir(t), "trust"), 2)
	p.status = settledAt(2)
	p.status.Release.Version = 3
	if _, _, err := New(f).Revert(t.Context(), api, Reversal{}); err != nil || p.order(t, 2).Turn != 1 {
		t.Errorf("turn %d, %v", p.order(t, 2).Turn, err)
	}
}

// What is refused names what leads on, and what is printed is not refused in its turn.
func TestMayTurn(t *testing.T) {
	_, p, _ := ordered(t, filepath.Join(kit.MemDir(t), "trust"), 2)
	is := func(order *schedule.Order, err error) *schedule.Order {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return order
	}
	first := p.order(t, 2)
	aborted := is(first.Abort())
	back := is(first.Revert(nil))
	nobody, one := settledAt(1), settledAt(2)
	// Of two classes one has no way back.
	oneWay := func(change func(*control.NodeStatus)) *control.Status {
		s := settledAt(2)
		s.Classes = map[bundle.Class]control.ClassStatus{"auth": {Total: 1, NoWayBack: "it has no reverse transform for class auth"}}
		auth := control.NodeStatus{Name: "a1", ID: bundle.NodeID{2}, Class: "auth", Version: 1, Running: 1, Target: 2, Reachable: true, Phase: string(view.Waiting), Reads: view.ReadsTurns}
		change(&auth)
		s.Nodes = append(s.Nodes, auth)
		return s
	}
	both := *first
	both.Classes = map[bundle.Class]schedule.ClassOrder{"kv": first.Classes["kv"], "auth": {Roster: []bundle.NodeID{{2}}, Strategy: bundle.StrategyRolling, MaxUnavailable: 1}}
	for name, c := range map[string]struct {
		order      *schedule.Order
		s          *control.Status
		undo       bool
		text, mend string // "": it may turn
	}{
		"nobody is there":                      {first, nobody, false, "no node is at", "`moult abort --release 2`"},
		"nobody is there, and it is aborted":   {aborted, nobody, false, "no node is at", "`moult inject BUNDLE`"},
		"it is aborted, and one is there":      {aborted, one, false, "", ""},
		"undo what goes forward":               {first, one, true, "nothing to undo", "`moult revert 2`"},
		"undo what is aborted":                 {aborted, nobody, true, "nothing to undo", "`moult inject BUNDLE`"},
		"once more":                            {back, one, false, "already", "--undo 2`"},
		"once more, and the way was aborted":   {is(back.Abort()), one, false, "was aborted", "--undo 2` goes forward again with all nodes, and then"},
		"undo where the way back was aborted":  {is(back.Abort()), one, true, "", ""},
		"only skipped ones are there":          {is(first.Skip("kv", bundle.NodeID{1})), one, false, "n1", "`moult retry --release 2 n1`"},
		"skipped, and aborted":                 {is(is(first.Skip("kv", bundle.NodeID{1})).Abort()), one, false, "n1", "`moult inject BUNDLE`"},
		"one that was skipped is to go along":  {is(is(first.Skip("kv", bundle.NodeID{1})).Retry("kv", bundle.NodeID{1})), one, false, "", ""},
		"none of the class is there":           {&both, oneWay(func(*control.NodeStatus) {}), false, "", ""},
		"one of the class is there":            {&both, oneWay(func(n *control.NodeStatus) { n.Version, n.Running = 2, 2 }), false, "class auth", "`moult inject BUNDLE`"},
		"one of the class is let in there":     {&both, oneWay(func(n *control.NodeStatus) { n.Running, n.Phase = 2, string(view.Probing) }), false, "class auth", "`moult inject BUNDLE`"},
		"one of the class is down":             {&both, oneWay(func(n *control.NodeStatus) { n.Phase = string(view.Draining) }), false, "class auth", "`moult inject BUNDLE`"},
		"one of the class may be on its way":   {&both, oneWay(func(n *control.NodeStatus) { n.Reachable = false }), false, "class auth", "`moult inject BUNDLE`"},
		"one of the class is away, and behind": {&both, oneWay(func(n *control.NodeStatus) { n.Reachable, n.Target = false, 0 }), false, "", ""},
	} {
		err := mayTurn(c.order, *c.s, Reversal{Undo: c.undo})
		if (err == nil) != (c.text == "") || err != nil && (!strings.Contains(err.Error(), c.text) || !strings.Contains(hint(err), c.mend)) {
			t.Errorf("%s: %v, %q", name, err, hint(err))
		}
	}
}

// To a release that was itself taken back, or aborted, nobody goes back unless that is said.
func TestRevertToDoubtful(t *testing.T) {
	_, p, _ := ordered(t, filepath.Join(kit.MemDir(t), "trust"), 2)
	order := p.order(t, 2)
	s := settledAt(2)
	s.Classes = map[bundle.Class]control.ClassStatus{"kv": {Total: 1, BackTo: 1, BackToDoubt: "was taken back itself"}}
	for _, to := range [][]bundle.Version{nil, {2}} {
		err := mayTurn(order, *s, Reversal{To: to})
		if err == nil || !strings.Contains(err.Error(), "release 1, which was taken back itself") || !strings.Contains(hint(err), "`moult revert --to 1 2`") {
			t.Errorf("to %v: %v, %q", to, err, hint(err))
		}
	}
	if err := mayTurn(order, *s, Reversal{To: []bundle.Version{1}}); err != nil {
		t.Error(err)
	}
	if err := mayTurn(order, *settledAt(1), Reversal{}); err == nil || strings.Contains(err.Error(), "itself") {
		t.Errorf("where nobody would go there: %v", err)
	}
}
