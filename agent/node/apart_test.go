package node

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"moult/agent/schedule"
	"moult/gossip/view"
)

// twins are two agents with one key, whose folders are copies of one.
type twins struct {
	t    *testing.T
	all  [2]*bench
	told int
	// unaware has each take what comes for what its own folder has lost: the planted bug.
	unaware bool
}

func newTwins(t *testing.T) *twins {
	a, b := newBench(t, at(1)), newBench(t, at(1))
	b.cfg.Self, b.cfg.Key, b.key = a.cfg.Self, a.cfg.Key, a.key
	w := &twins{t: t, all: [2]*bench{a, b}}
	a.addr, b.addr = "10.0.0.1:7946", "10.0.0.9:7946"
	return w
}

// speak has one say what it has to say, and the other hear it.
func (w *twins) speak(i int) (said bool) {
	w.t.Helper()
	b, other := w.all[i], w.all[1-i]
	for range 10 {
		r := b.Ready()
		if r.Empty() {
			return said
		}
		if r.Tell != nil {
			s, err := view.Sign(ed25519.PrivateKey(b.key), *r.Tell)
			if err != nil {
				w.t.Fatal(err)
			}
			b.Advance(r)
			b.Step(b.now, Told{Record: s})
			other.apart.aware = other.apart.aware || w.unaware
			if _, err := other.Merge(other.now, s); err != nil {
				w.t.Fatal(err)
			}
			w.told++
			said = true
			continue
		}
		b.Advance(r)
	}
	w.t.Fatal("it never ends")
	return said
}

// TestTwinsPart: two agents with one key find each other out, each tells one record that says so,
// and then neither says nor begins anything more, in its next run either.
func TestTwinsPart(t *testing.T) {
	const most = 6
	run := func(unaware bool) *twins {
		w := newTwins(t)
		w.unaware = unaware
		for i := 0; i < most && (w.speak(i%2) || w.speak(1-i%2)); i++ {
		}
		return w
	}
	w := run(false)
	for i, b := range w.all {
		if b.Apart() == "" || !b.alarmed("moult restore --here") {
			t.Errorf("agent %d does not know of the other: %q", i, b.Alarms())
		}
		if w.speak(i) {
			t.Errorf("agent %d does not end to speak, after %d records", i, w.told)
		}
		if got := b.may(b.saved, b.cfg.Rules.Decide).Reason.Code; got != CodeApart || b.mayAim(b.saved) {
			t.Errorf("agent %d may begin something: %q", i, got)
		}
		b.Step(b.now, AgentTrial{Over: true})
		if !b.abstains() {
			t.Errorf("agent %d goes on since its build is well", i)
		}
		s := b.saved
		next, err := New(b.cfg, Memory{State: &s, Apart: b.Apart()}, b.now)
		if err != nil {
			t.Fatal(err)
		}
		next.Step(b.now, Synced{})
		if r := next.Ready(); r.Tell != nil || !next.abstains() {
			t.Errorf("the next run of agent %d says %+v", i, r.Tell)
		}
	}
	if w.told > 4 {
		t.Errorf("they told %d records", w.told)
	}
	if w := run(true); w.told < most || w.all[0].Apart()+w.all[1].Apart() != "" {
		t.Errorf("planted: agents that believe that they have forgotten something told %d records, %q", w.told, w.all[0].Apart())
	}
}

// TestTwinProven: by its address, too, also where no record is told.
func TestTwinProven(t *testing.T) {
	b := newBench(t, at(1))
	b.Step(b.now, Twin{Addr: "10.0.0.9:7946"})
	if !b.abstains() || !strings.Contains(b.Apart(), "at 10.0.0.9:7946") {
		t.Errorf("%q", b.Apart())
	}
}

// TestRestoredRegains: what was restored takes back what it has signed since, and only once: what
// comes above it then is another agent's.
func TestRestoredRegains(t *testing.T) {
	b := newBench(t, at(1))
	doubted, err := New(b.cfg, Memory{State: new(at(1)), Doubt: "it was restored"}, b.now)
	if err != nil {
		t.Fatal(err)
	}
	b.Node = doubted
	b.ready()
	if r := b.Ready(); r.Tell != nil {
		t.Fatalf("it says %+v before it has heard anybody", r.Tell)
	}
	heard := func(seq uint64) {
		b.record(b.key, func(r *view.Record) { r.Seq, r.Version, r.Obeys = seq, 1, 3 })
	}
	heard(5000)
	heard(70_000) // others know more
	b.Step(b.now, Synced{})
	var told *view.Record
	for range 10 {
		r := b.Ready()
		if told = r.Tell; told != nil {
			break
		}
		b.Advance(r)
	}
	if told == nil || told.Seq != 70_000+regained+1 || told.Obeys != 3 || b.abstains() {
		t.Fatalf("it says %+v, %q", told, b.Apart())
	}
	s, err := view.Sign(b.key, *told)
	if err != nil {
		t.Fatal(err)
	}
	b.Step(b.now, Told{Record: s})
	heard(90_000) // of before, from somebody far away
	if b.abstains() {
		t.Errorf("it takes what it said once for another's: %q", b.Apart())
	}
	heard(told.Seq + 1)
	if !b.abstains() {
		t.Error("it does not notice another agent")
	}
	// A folder that does not know that it is old holds, and says so.
	b = newBench(t, at(1))
	heard(5000)
	if got := b.may(b.saved, schedule.Decide).Reason.Code; got != CodeApart || b.saved.Obeys != 0 {
		t.Errorf("it goes by %q: %+v", got, b.saved)
	}
}

// TestOlderFolderObeys: what the node has promised since binds an older folder also where its number
// is below those that the folder has reserved, so that nobody can tell who has signed it.
func TestOlderFolderObeys(t *testing.T) {
	b := newBench(t, at(1))
	old := Memory{State: new(at(1))}
	old.Floor.Numbers = 1024
	older, err := New(b.cfg, old, b.now)
	if err != nil {
		t.Fatal(err)
	}
	b.Node = older
	b.record(b.key, func(r *view.Record) { r.Seq, r.Version, r.Obeys = 5, 2, 3 })
	b.Step(b.now, Synced{})
	b.ready()
	if s := b.Saved(); s.Claims() != 2 || s.Obeys != 3 {
		t.Errorf("it claims %d and obeys %d, and has promised 2 and 3", s.Claims(), s.Obeys)
	}
	if !b.alarmed("older than what the node has said") {
		t.Errorf("it does not say so: %q", b.Alarms())
	}
}

// TestKeyAlone: of a folder of which the key alone is left, what it has signed before is its own,
// also where it has said something before it heard anybody.
func TestKeyAlone(t *testing.T) {
	b := newBench(t, at(1))
	alone, err := New(b.cfg, Memory{}, b.now)
	if err != nil {
		t.Fatal(err)
	}
	b.Node = alone
	tell := func() uint64 {
		t.Helper()
		for range 10 {
			r := b.Ready()
			if r.Tell == nil {
				b.Advance(r)
				continue
			}
			s, err := view.Sign(b.key, *r.Tell)
			if err != nil {
				t.Fatal(err)
			}
			b.Advance(r)
			b.Step(b.now, Told{Record: s})
			return r.Tell.Seq
		}
		t.Fatal("it says nothing")
		return 0
	}
	tell()
	b.record(b.key, func(r *view.Record) { r.Seq, r.Obeys = 5000, 3 })
	if b.abstains() {
		t.Fatalf("it takes its own word for another's: %q", b.Apart())
	}
	b.Step(b.now, Synced{})
	last := tell()
	b.record(b.key, func(r *view.Record) { r.Seq = last + 1 })
	if !b.abstains() {
		t.Error("it does not notice another agent")
	}
}

// TestDoubtedGoesAbove: what a folder has signed that has lost its last writes comes from whoever
// knows it, also when that is not the first who is heard.
func TestDoubtedGoesAbove(t *testing.T) {
	b := newBench(t, at(1))
	doubted, err := New(b.cfg, Memory{State: new(at(1)), Doubt: "its last writes are lost"}, b.now)
	if err != nil {
		t.Fatal(err)
	}
	b.Node = doubted
	b.Step(b.now, Synced{}) // by one who knows nothing of it
	for range 10 {
		r := b.Ready()
		if r.Tell == nil {
			b.Advance(r)
			continue
		}
		s, err := view.Sign(b.key, *r.Tell)
		if err != nil {
			t.Fatal(err)
		}
		b.Advance(r)
		b.Step(b.now, Told{Record: s})
		break
	}
	b.record(b.key, func(r *view.Record) { r.Seq, r.Version = 10_252, 1 })
	if b.abstains() {
		t.Errorf("it takes its own word for another's: %q", b.Apart())
	}
}
