package node

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// TestProofAgrees: peers that have seen the same sets in any order keep the same proof.
func TestProofAgrees(t *testing.T) {
	signed := func(word string, releases bundle.Version) Metadata {
		m := Metadata{Digest: bundle.Sum([]byte(word)), Releases: map[bundle.Version]trust.Ref{}}
		for v := bundle.Version(1); v <= releases; v++ {
			m.Releases[v] = trust.Ref{Digest: bundle.Sum(fmt.Append(nil, word, v))}
		}
		return m
	}
	ours := signed("ours", 2)
	others := []Metadata{signed("a", 1), signed("b", 2), signed("c", 1), signed("d", 2), {}}
	want := proofOf(ours, others...)
	if len(ours.Conflicts(want)) != 2 {
		t.Error("another set proves more")
	}
	for range others {
		others = append(others[1:], others[0])
		if got := proofOf(ours, others...); got.Digest != want.Digest {
			t.Fatal("the proof depends on the order of arrival")
		}
	}
	if got := proofOf(ours, ours, Metadata{}); !got.Digest.IsZero() {
		t.Error("a set contradicts itself")
	}
}

// TestRounds: a document that nobody has holds up no other for ever, and
// nobody asks for it again and again without a pause that grows.
func TestRounds(t *testing.T) {
	var missing []Document
	for i := range 2*documentsAtOnce + 3 {
		missing = append(missing, Document{Chunk: bundle.Chunk{Digest: bundle.Sum([]byte{byte(i)})}})
	}
	var r rounds
	now := time.Unix(0, 0)
	asked := map[bundle.Digest]bool{}
	var pauses []time.Duration
	for range 8 {
		if !r.due(now) {
			t.Fatal("the round is not due")
		}
		turn := r.turn(missing)
		r.begin()
		if r.due(now) || len(turn) != documentsAtOnce {
			t.Fatalf("%d documents at once", len(turn))
		}
		for _, c := range turn {
			asked[c.Digest] = true
		}
		if len(asked) == documentsAtOnce && !asked[missing[len(missing)-1].Digest] {
			t.Error("the newest is not asked for first")
		}
		r.end(now, 0)
		pauses = append(pauses, r.next.Sub(now))
		if r.due(now) {
			t.Fatal("no pause after a round that brought nothing")
		}
		now = r.next
	}
	if len(asked) != len(missing) {
		t.Errorf("%d of %d documents were asked for", len(asked), len(missing))
	}
	if !slices.IsSorted(pauses) || pauses[0] != minPause || pauses[len(pauses)-1] != maxPause {
		t.Errorf("pauses %v", pauses)
	}
	r.begin()
	r.end(now, 1)
	if !r.due(now) {
		t.Error("a pause after a round that brought something")
	}
}

// TestAlarmsGo: an alarm goes when its cause does, and not because others come.
func TestAlarmsGo(t *testing.T) {
	n, err := New(Config{Self: bundle.NodeID{1}}, Memory{}, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxKept + 2 {
		n.Step(time.Unix(0, 0), Alarm{Cause: fmt.Sprint(i), Text: fmt.Sprint("alarm ", i)})
	}
	got := n.Alarms()
	if len(got) != maxAlarms || got[0] != "alarm 0" || !strings.HasPrefix(got[maxAlarms-1], fmt.Sprint("and ", maxKept-maxAlarms+1, " more")) {
		t.Errorf("too many alarms: %q", got)
	}
	for i := maxAlarms; i < maxKept; i++ {
		n.Step(time.Unix(0, 0), Alarm{Cause: fmt.Sprint(i)})
	}
	if got := n.Alarms(); len(got) != maxAlarms || got[maxAlarms-1] != fmt.Sprint("alarm ", maxAlarms-1) {
		t.Errorf("as many as there is room for: %q", got)
	}
	n.Step(time.Unix(0, 0), Alarm{Cause: "0"})
	if got := n.Alarms(); len(got) != maxAlarms-1 || got[0] != "alarm 1" {
		t.Errorf("the cause has gone: %q", got)
	}
}

// TestThaw: when the keys that signed a release twice are replaced, what the new ones
// say counts; but what this node has reached by another content stays frozen.
func TestThaw(t *testing.T) {
	n := newBench(t, at(1))
	set := func(number int64, words ...string) Metadata {
		m := Metadata{Digest: bundle.Sum(fmt.Append(nil, number, words)), Releases: map[bundle.Version]trust.Ref{}}
		m.Timestamp = number
		for i, word := range words {
			m.Releases[bundle.Version(i+1)] = trust.Ref{Digest: bundle.Sum([]byte(word))}
		}
		return m
	}
	n.Step(n.now, MetadataVerified{Metadata: set(1, "one", "two")})
	n.Step(n.now, MetadataSeen{set(2, "eno", "owt")})
	if !n.Conflicted(1) || !n.Conflicted(2) {
		t.Fatal("nothing is frozen, so this test shows nothing")
	}
	n.ready()
	n.Step(n.now, MetadataVerified{Metadata: set(3, "eno", "two"), KeysReplaced: true})
	r := n.Ready()
	if !n.Conflicted(1) || n.Conflicted(2) || !n.Evidence().Digest.IsZero() {
		t.Errorf("frozen %v %v, evidence %v", n.Conflicted(1), n.Conflicted(2), n.Evidence().Digest)
	}
	if held, changed := r.Save.Frozen[2]; !changed || !held.IsZero() || len(r.Save.Frozen) != 1 {
		t.Errorf("to be saved: %v", r.Save.Frozen)
	}
}
