package gossip

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"moult/gossip/view"
	"moult/store/bundle"
)

func stamp(node byte, seq uint64, sum byte) view.Stamp {
	return view.Stamp{Node: nodeID(node), Seq: seq, Sum: bundle.Digest{sum}}
}

// A toy view: for each node the greatest (sequence number, sum).
type toyView map[bundle.NodeID]view.Stamp

func (v toyView) merge(s view.Stamp) {
	old, ok := v[s.Node]
	if !ok || s.Seq > old.Seq || s.Seq == old.Seq && string(s.Sum[:]) > string(old.Sum[:]) {
		v[s.Node] = s
	}
}

func (v toyView) stamps() (out []view.Stamp) {
	for _, s := range v {
		out = append(out, s)
	}
	return out
}

// converges applies a delta between two views and reports whether they are
// equal afterwards.
func converges(a, b toyView, diff func(mine, theirs []view.Stamp) delta) bool {
	d := diff(a.stamps(), b.stamps())
	fromA := map[bundle.NodeID]view.Stamp{}
	for _, id := range d.push {
		fromA[id] = a[id]
	}
	for _, id := range d.want {
		a.merge(b[id])
	}
	for _, s := range fromA {
		b.merge(s)
	}
	return reflect.DeepEqual(a, b)
}

func drawView(t *rapid.T, name string) toyView {
	v := toyView{}
	for _, s := range rapid.SliceOfN(rapid.Custom(func(t *rapid.T) view.Stamp {
		return stamp(rapid.ByteRange(1, 6).Draw(t, "node"), rapid.Uint64Range(1, 3).Draw(t, "seq"), rapid.ByteRange(0, 2).Draw(t, "sum"))
	}), 0, 10).Draw(t, name) {
		v.merge(s)
	}
	return v
}

func TestDiffConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawView(t, "a"), drawView(t, "b")
		if !converges(a, b, diff) {
			t.Fatalf("after an exchange:\n%v\n%v", a, b)
		}
		if d := diff(a.stamps(), b.stamps()); !d.empty() {
			t.Fatalf("equal views still lack %v", d)
		}
	})
}

// The check above finds these mistakes.
func TestDiffCheckFindsBugs(t *testing.T) {
	bugs := map[string]func(mine, theirs []view.Stamp) delta{
		"pulls only": func(m, th []view.Stamp) delta { return delta{want: diff(m, th).want} },
		"skips unknown nodes": func(m, th []view.Stamp) delta {
			d := diff(m, th)
			d.want = slices.DeleteFunc(d.want, func(id bundle.NodeID) bool {
				return !slices.ContainsFunc(m, func(s view.Stamp) bool { return s.Node == id })
			})
			return d
		},
		"ignores sums": func(m, th []view.Stamp) delta {
			for _, ss := range [][]view.Stamp{m, th} {
				for i := range ss {
					ss[i].Sum = bundle.Digest{}
				}
			}
			return diff(m, th)
		},
	}
	for name, bug := range bugs {
		found := false
		for seed := range 500 {
			pair := rapid.Custom(func(t *rapid.T) [2]toyView { return [2]toyView{drawView(t, "a"), drawView(t, "b")} }).Example(seed)
			found = found || !converges(pair[0], pair[1], bug)
		}
		if !found {
			t.Errorf("%s: not found", name)
		}
	}
}

func TestTrustDelta(t *testing.T) {
	d := func(b byte) bundle.Digest { return bundle.Digest{b} }
	type ds = []bundle.Digest
	for i, c := range []struct {
		mine, theirs heads
		pull, push   ds
	}{
		{heads{}, heads{}, nil, nil},
		{heads{1, d(1), d(0)}, heads{1, d(1), d(0)}, nil, nil},
		{heads{}, heads{1, d(1), d(0)}, ds{d(1)}, nil},
		{heads{2, d(2), d(0)}, heads{1, d(1), d(0)}, nil, ds{d(2)}},
		{heads{1, d(1), d(0)}, heads{1, d(2), d(0)}, ds{d(2)}, ds{d(1)}},             // a fork
		{heads{1, d(1), d(2)}, heads{1, d(2), d(1)}, nil, nil},                       // a fork that both know
		{heads{1, d(1), d(2)}, heads{1, d(1), d(0)}, nil, ds{d(2)}},                  // evidence goes over
		{heads{1, d(1), d(2)}, heads{2, d(3), d(0)}, ds{d(3)}, ds{d(2)}},             // with a newer head the other way
		{heads{1, d(1), d(3)}, heads{1, d(1), d(2)}, ds{d(2)}, ds{d(3)}},             // different evidence
		{heads{1, d(1), d(0)}, heads{1, d(2), d(1)}, ds{d(2)}, nil},                  // they hold ours as evidence
		{heads{3, d(1), d(0)}, heads{2, d(2), d(0)}, nil, ds{d(1)}},                  // an older one is not pulled
		{heads{2, d(2), bundle.Digest{}}, heads{0, d(0), d(0)}, nil, ds{d(2)}},       // a fresh peer
		{heads{0, d(0), d(0)}, heads{0, d(0), bundle.Digest{9}}, ds{d(9)}, nil},      // evidence alone
		{heads{0, d(0), d(0)}, heads{-1, bundle.Digest{8}, d(0)}, nil, nil},          // nonsense is not pulled
		{heads{-5, d(0), d(0)}, heads{-1, bundle.Digest{}, d(0)}, nil, ds(nil)},      // nothing to pull
		{heads{4, d(4), d(0)}, heads{4, d(4), d(4)}, nil, nil},                       // its own head as evidence
		{heads{4, d(4), d(4)}, heads{5, d(5), d(0)}, ds{d(5)}, ds{d(4)}},             // pushed as evidence
		{heads{5, d(5), d(0)}, heads{4, d(4), d(4)}, ds{d(4)}, ds{d(5)}},             // and pulled as such
		{heads{5, d(5), d(4)}, heads{4, d(4), bundle.Digest{}}, nil, ds{d(5)}},       // known there as the head
		{heads{4, d(4), bundle.Digest{}}, heads{5, d(5), d(4)}, ds{d(5)}, nil},       // the other way
		{heads{4, bundle.Digest{}, d(0)}, heads{4, bundle.Digest{}, d(0)}, nil, nil}, // no sets at all
	} {
		pull, push := trustDelta(c.mine, c.theirs)
		if !slices.Equal(pull, c.pull) || !slices.Equal(push, c.push) {
			t.Errorf("case %d: pull %v, push %v; want %v, %v", i, pull, push, c.pull, c.push)
		}
	}
}

func TestStampsOfPages(t *testing.T) {
	r := newTestReplica()
	nodes := map[int]int{}
	for i := range 30 {
		key := testKey(t)
		s := sign(t, key, fmt.Sprintf("n%d", i), 1)
		r.Merge(bundle.NodeID{}, []view.Signed{s})
	}
	var all []int
	for b := range view.NumBuckets {
		all = append(all, b)
	}
	total := 0
	for rest := all; len(rest) > 0; {
		stamps, done := stampsOf(r, rest, 7)
		if done == 0 || len(stamps) < 7 && done < len(rest) {
			t.Fatalf("a page of %d stamps in %d buckets", len(stamps), done)
		}
		for _, s := range stamps {
			nodes[int(binary.BigEndian.Uint16(s.Node[:]))>>7]++
		}
		total += len(stamps)
		rest = rest[done:]
	}
	if total != 30 {
		t.Errorf("%d of 30 stamps in %d buckets", total, len(nodes))
	}
}

func TestBucketsRoundTrip(t *testing.T) {
	hashes := make([]uint64, view.NumBuckets)
	for i := range hashes {
		hashes[i] = uint64(i) << 50
	}
	got, err := unpackBuckets(packBuckets(hashes))
	if err != nil || !slices.Equal(got, hashes) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := unpackBuckets(packBuckets(hashes[1:])); err == nil {
		t.Error("too few bucket hashes were read")
	}
}

func TestRefusedSets(t *testing.T) {
	r := newRefusedSets()
	start := time.Unix(1000, 0)
	s := refusedSet{set: bundle.Digest{1}, head: bundle.Digest{2}}
	next := s
	next.head = bundle.Digest{3}
	if r.has(s, start) {
		t.Error("what never went over is remembered")
	}
	r.note(s, start)
	if !r.has(s, start.Add(refusedSetTime-1)) || r.has(s, start.Add(refusedSetTime)) || r.has(next, start) {
		t.Error("remembered for another time or head")
	}
}

func TestUntried(t *testing.T) {
	mine := []view.Stamp{stamp(1, 1, 1), stamp(2, 1, 1)}
	theirs := []view.Stamp{stamp(1, 1, 2), stamp(3, 1, 1)}
	tried := map[view.Stamp]bool{}
	first := untried(diff(mine, theirs), mine, theirs, tried)
	if len(first.want) != 2 || len(first.push) != 2 {
		t.Errorf("first: %v", first)
	}
	if again := untried(diff(mine, theirs), mine, theirs, tried); !again.empty() {
		t.Errorf("again: %v", again)
	}
	theirs[1].Seq++
	if next := untried(diff(mine, theirs), mine, theirs, tried); len(next.want) != 1 || len(next.push) != 0 {
		t.Errorf("a newer one: %v", next)
	}
}
