package view

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"moult/store/bundle"
)

func keyOf(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func idOf(name string) bundle.NodeID {
	return bundle.NodeIDOf(keyOf(name).Public().(ed25519.PublicKey))
}

func sign(t testing.TB, name string, seq uint64, reason string) Signed {
	t.Helper()
	s, err := Sign(keyOf(name), Record{Name: name, Class: "kv", Seq: seq, Phase: "current", Version: 1, Reason: reason})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFinalIsReached: nobody can have finalized a release that it has not reached.
func TestFinalIsReached(t *testing.T) {
	r := Record{Name: "a", Class: "kv", Seq: 1, Phase: "current", Version: 2, Final: 2}
	if _, err := Sign(keyOf("a"), r); err != nil {
		t.Error(err)
	}
	if r.Final = 3; true {
		if _, err := Sign(keyOf("a"), r); !errors.Is(err, ErrInvalid) {
			t.Errorf("of a release that comes after its version: %v", err)
		}
	}
}

// merger is a view as the laws see it: what merges, and what it comes to.
type merger interface {
	merge(...Signed)
	records() map[bundle.NodeID]Signed
}

type realView struct{ *View }

func (v realView) merge(ss ...Signed) { v.Merge(ss...) }

func (v realView) records() map[bundle.NodeID]Signed {
	all := map[bundle.NodeID]Signed{}
	for r := range v.All() {
		all[r.Node], _ = v.Signed(r.Node)
	}
	return all
}

// modelView says what a view is: for each node, the record that wins over all
// others. Broken rules of winning go through the same laws.
type modelView struct {
	wins func(new, old Stamp) bool
	all  map[bundle.NodeID]Signed
}

func newModel(wins func(new, old Stamp) bool) merger {
	return modelView{wins, map[bundle.NodeID]Signed{}}
}

// stampOf reads a record that is known to be good.
func stampOf(s Signed) Stamp {
	r, err := s.read()
	if err != nil {
		panic(err)
	}
	return Stamp{r.Node, r.Seq, s.Sum()}
}

func (v modelView) merge(ss ...Signed) {
	for _, s := range ss {
		stamp := stampOf(s)
		if old, ok := v.all[stamp.Node]; !ok || v.wins(stamp, stampOf(old)) {
			v.all[stamp.Node] = s
		}
	}
}

func (v modelView) records() map[bundle.NodeID]Signed { return maps.Clone(v.all) }

// history is all that a few nodes ever signed; some sign two records with one
// number.
func history(t testing.TB) []Signed {
	var all []Signed
	for i := range 3 {
		for seq := range uint64(3) {
			all = append(all, sign(t, fmt.Sprint("n", i), seq+1, ""))
			if i > 0 {
				all = append(all, sign(t, fmt.Sprint("n", i), seq+1, "the other one"))
			}
		}
	}
	return all
}

// laws checks the CRDT laws on one choice of three sets of records.
func laws(all []Signed, a, b, c []int, fresh func() merger) error {
	of := func(sets ...[]int) merger {
		m := fresh()
		for _, set := range sets {
			for _, i := range set {
				m.merge(all[i])
			}
		}
		return m
	}
	join := func(x, y merger) merger {
		m := fresh()
		m.merge(slices.Collect(maps.Values(x.records()))...)
		m.merge(slices.Collect(maps.Values(y.records()))...)
		return m
	}
	same := func(law string, x, y merger) error {
		if !maps.Equal(x.records(), y.records()) {
			return fmt.Errorf("%s does not hold", law)
		}
		return nil
	}
	x, y, z := of(a), of(b), of(c)
	xy := join(x, y)
	return errors.Join(
		same("commutativity", xy, join(y, x)),
		same("associativity", join(xy, z), join(x, join(y, z))),
		same("idempotence", join(x, x), x),
		same("independence of order and repetition", of(a, b, c), of(c, a, b, a)),
		rises(x.records(), xy.records()),
	)
}

// rises checks that nothing of before is lost in after, or older there.
func rises(before, after map[bundle.NodeID]Signed) error {
	for id, was := range before {
		is, ok := after[id]
		if !ok {
			return errors.New("a merge lost a node")
		}
		if is != was && !stampOf(is).newerThan(stampOf(was)) {
			return errors.New("a merge took a record back")
		}
	}
	return nil
}

func checkLaws(t *testing.T, fresh func() merger) (err error) {
	all := history(t)
	set := rapid.SliceOfN(rapid.IntRange(0, len(all)-1), 0, 6)
	rapid.Check(t, func(t *rapid.T) {
		if found := laws(all, set.Draw(t, "a"), set.Draw(t, "b"), set.Draw(t, "c"), fresh); found != nil {
			err = found
		}
	})
	return err
}

func TestMergeLaws(t *testing.T) {
	if err := checkLaws(t, func() merger { return realView{New(nil)} }); err != nil {
		t.Error(err)
	}
	if err := checkLaws(t, func() merger { return newModel(Stamp.newerThan) }); err != nil {
		t.Errorf("the model: %v", err)
	}
}

// TestLawsCatch shows that the laws above can fail.
func TestLawsCatch(t *testing.T) {
	for name, wins := range map[string]func(new, old Stamp) bool{
		"last seen wins":             func(_, _ Stamp) bool { return true },
		"first seen wins":            func(_, _ Stamp) bool { return false },
		"first of equal number wins": func(n, o Stamp) bool { return n.Seq > o.Seq },
		"last of equal number wins":  func(n, o Stamp) bool { return n.Seq >= o.Seq },
		"oldest wins":                func(n, o Stamp) bool { return o.newerThan(n) },
	} {
		var err error
		for tries := 0; err == nil && tries < 50; tries++ { // few samples by -short may all miss it
			err = checkLaws(t, func() merger { return newModel(wins) })
		}
		if err == nil {
			t.Errorf("%s: no law failed", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

// TestViewIsItsModel compares the view with the model, record by record, and
// its hashes with those of a view that was given the outcome at once.
func TestViewIsItsModel(t *testing.T) {
	all := history(t)
	rapid.Check(t, func(t *rapid.T) {
		v, model := New(nil), newModel(Stamp.newerThan)
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(all)-1), 0, 20).Draw(t, "records") {
			before := v.Snapshot()
			had := realView{v}.records()
			changed, _ := v.Merge(all[i])
			model.merge(all[i])
			now := realView{v}.records()
			if !maps.Equal(now, model.records()) {
				t.Fatalf("the view differs from its model")
			}
			if (len(changed) > 0) == maps.Equal(had, now) {
				t.Fatalf("changed = %d, but the view says otherwise", len(changed))
			}
			for r := range before.All() {
				if s, _ := before.Signed(r.Node); s != had[r.Node] {
					t.Fatalf("a snapshot has changed")
				}
			}
		}
		at := New(nil)
		if _, err := at.Merge(slices.Collect(maps.Values(model.records()))...); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(v.Buckets(), at.Buckets()) || v.Len() != at.Len() {
			t.Fatalf("equal views have different hashes")
		}
	})
}

// exchange runs one round of anti-entropy, as the package doc has it.
func exchange(a, b *View) {
	for _, i := range DifferentBuckets(a.Buckets(), b.Buckets()) {
		send, want := a.Snapshot().Missing(i, b.Stamps(i))
		b.Merge(send...)
		for _, id := range want {
			if s, ok := b.Signed(id); ok {
				a.Merge(s)
			}
		}
	}
}

func TestAntiEntropyConverges(t *testing.T) {
	all := history(t)
	for i := range 40 {
		all = append(all, sign(t, fmt.Sprint("m", i), uint64(i%3)+1, ""))
	}
	rapid.Check(t, func(t *rapid.T) {
		views := make([]*View, rapid.IntRange(2, 5).Draw(t, "views"))
		union := New(nil)
		for i := range views {
			views[i] = New(nil)
			for _, j := range rapid.SliceOfN(rapid.IntRange(0, len(all)-1), 0, 20).Draw(t, "seen") {
				views[i].Merge(all[j])
				union.Merge(all[j])
			}
		}
		pick := rapid.IntRange(0, len(views)-1)
		for range rapid.IntRange(0, 10).Draw(t, "rounds") {
			a, b := pick.Draw(t, "a"), pick.Draw(t, "b")
			exchange(views[a], views[b])
			if !slices.Equal(views[a].Buckets(), views[b].Buckets()) {
				t.Fatalf("two views differ after an exchange")
			}
		}
		for range 2 { // a chain there and back reaches everybody
			for i := range views {
				exchange(views[i], views[(i+1)%len(views)])
			}
		}
		for i, v := range views {
			if !maps.Equal(realView{v}.records(), realView{union}.records()) {
				t.Fatalf("view %d is not the merge of all", i)
			}
		}
	})
}

// TestHashesSeeEveryChange shows what the comparison of bucket hashes rests on.
func TestHashesSeeEveryChange(t *testing.T) {
	v := New(nil)
	seen := map[uint64]bool{}
	for i := range 200 {
		changed, err := v.Merge(sign(t, fmt.Sprint("n", i%50), uint64(i)+1, ""))
		if err != nil || len(changed) != 1 {
			t.Fatal(changed, err)
		}
		h := v.Buckets()[bucketOf(changed[0])]
		if h == 0 || seen[h] {
			t.Fatalf("hash %x after change %d was there before", h, i)
		}
		seen[h] = true
	}
}

func TestMergeReports(t *testing.T) {
	v := New(nil)
	one, other, newer := sign(t, "n1", 5, ""), sign(t, "n1", 5, "the other one"), sign(t, "n1", 6, "")
	forged := sign(t, "n2", 1, "")
	forged.signature[3] ^= 1
	changed, err := v.Merge(forged, one, sign(t, "n3", 1, ""))
	if len(changed) != 2 || !errors.Is(err, ErrSignature) || v.Len() != 2 {
		t.Errorf("one bad record of three: changed %d, %v", len(changed), err)
	}
	if len(v.Equivocations()) != 0 {
		t.Error("equivocation without cause")
	}
	if _, err := v.Merge(other); !errors.Is(err, ErrEquivocation) || !strings.Contains(err.Error(), "n1") {
		t.Errorf("two records with number 5: %v", err)
	}
	got := v.Equivocations()
	if len(got) != 1 || got[0].Node != idOf("n1") || got[0].Seq != 5 {
		t.Fatalf("evidence: %+v", got)
	}
	if kept, _ := v.Signed(idOf("n1")); kept != got[0].Kept || got[0].Kept == got[0].Other {
		t.Error("the evidence does not show which record is kept")
	}
	if changed, err := v.Merge(newer); err != nil || len(changed) != 1 {
		t.Errorf("a newer record after an equivocation: %v", err)
	}
	// What is too old to matter is not looked at any more.
	if changed, err := v.Merge(one, other); err != nil || len(changed) != 0 {
		t.Errorf("old records: changed %d, %v", len(changed), err)
	}
}

func TestMissingIgnoresLies(t *testing.T) {
	v := New(nil)
	v.Merge(sign(t, "n1", 5, ""))
	id := idOf("n1")
	bucket := bucketOf(id)
	elsewhere := bundle.NodeID{byte(255 - id[0])}
	send, want := v.Snapshot().Missing(bucket, []Stamp{
		{Node: id, Seq: 9}, {Node: id, Seq: 1}, // says two things of one node
		{Node: elsewhere, Seq: 7}, // belongs to another bucket
	})
	if len(send) != 0 || !slices.Equal(want, []bundle.NodeID{id}) {
		t.Errorf("send %d, want %v", len(send), want)
	}
	for _, i := range []int{-1, NumBuckets} {
		if send, want := v.Snapshot().Missing(i, nil); send != nil || want != nil || v.Stamps(i) != nil {
			t.Errorf("bucket %d does not exist", i)
		}
	}
	if d := DifferentBuckets(v.Buckets(), nil); len(d) != NumBuckets {
		t.Errorf("a peer without hashes differs in %d buckets", len(d))
	}
}

func TestViewIsBounded(t *testing.T) {
	v := New(nil)
	for i := range MaxNodes { // as if so many had been merged
		id := bundle.NodeID(sha256.Sum256([]byte{byte(i), byte(i >> 8)}))
		v.now.put(&entry{stamp: Stamp{Node: id, Seq: 1}})
	}
	if changed, err := v.Merge(sign(t, "n1", 1, "")); !errors.Is(err, ErrFull) || len(changed) != 0 || v.Len() != MaxNodes {
		t.Errorf("node %d: changed %d, %v", MaxNodes+1, len(changed), err)
	}
}

func BenchmarkMerge(b *testing.B) {
	records := make([]Signed, 1000)
	for i := range records {
		records[i] = sign(b, fmt.Sprint("n", i), 1, "")
	}
	b.Run("news", func(b *testing.B) {
		for b.Loop() {
			New(nil).Merge(records...)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(records)), "ns/record")
	})
	v := New(nil)
	v.Merge(records...)
	b.Run("known", func(b *testing.B) {
		for b.Loop() {
			v.Merge(records...)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(records)), "ns/record")
	})
	b.Run("snapshot", func(b *testing.B) {
		for b.Loop() {
			v.Snapshot()
		}
	})
}

// forgets reports whether it matters when a view is told to forget.
func forgets(t *testing.T, forget func(*View, map[bundle.NodeID]uint64)) (err error) {
	all := history(t)
	rapid.Check(t, func(t *rapid.T) {
		given := rapid.SliceOfN(rapid.IntRange(0, len(all)-1), 1, 20).Draw(t, "records")
		at := rapid.IntRange(0, len(given)).Draw(t, "when")
		stamp := stampOf(all[rapid.IntRange(0, len(all)-1).Draw(t, "of")])
		upTo := map[bundle.NodeID]uint64{stamp.Node: stamp.Seq}
		first, late := New(nil), New(nil)
		first.Forget(upTo)
		for n, i := range given {
			if n == at {
				forget(late, upTo)
			}
			_, _ = first.Merge(all[i])
			_, _ = late.Merge(all[i])
		}
		if at == len(given) {
			forget(late, upTo)
		}
		r, known := first.Get(stamp.Node)
		switch {
		case known && r.Seq <= stamp.Seq:
			err = fmt.Errorf("record %d is there, and was forgotten up to %d", r.Seq, stamp.Seq)
		case !slices.Equal(first.Buckets(), late.Buckets()) || first.Len() != late.Len() || !maps.Equal(realView{first}.records(), realView{late}.records()):
			err = errors.New("views that were given the same differ by when they were told to forget")
		}
	})
	return err
}

func TestForget(t *testing.T) {
	if err := forgets(t, func(v *View, upTo map[bundle.NodeID]uint64) { v.Forget(upTo) }); err != nil {
		t.Error(err)
	}
	for name, forget := range map[string]func(*View, map[bundle.NodeID]uint64){
		"it is taken again":   func(v *View, upTo map[bundle.NodeID]uint64) { v.Forget(upTo); v.forgotten = nil },
		"what is there stays": func(v *View, upTo map[bundle.NodeID]uint64) { v.forgotten = upTo },
		"all records of it go": func(v *View, upTo map[bundle.NodeID]uint64) {
			for id := range upTo {
				if _, known := v.Get(id); known {
					v.now.drop(id)
				}
			}
		},
	} {
		if forgets(t, forget) == nil {
			t.Errorf("%s: not caught", name)
		}
	}
}

// What the view holds by sum are its records, no more and no less: else one that was
// forgotten or dropped would not be taken again, or an old one would be taken for known.
func TestHeld(t *testing.T) {
	v, rng := New(nil), rand.New(rand.NewPCG(1, 2))
	for range 400 {
		name := fmt.Sprint("n", rng.IntN(8))
		s := sign(t, name, 1+rng.Uint64N(5), fmt.Sprint(rng.IntN(2)))
		node, seq, err := s.Number()
		if r, opened := Open(s); opened != nil || err != nil || r.Node != node || r.Seq != seq {
			t.Fatalf("number %d of %s, %v: opened %+v, %v", seq, node, err, r, opened)
		}
		switch rng.IntN(8) {
		case 0:
			v.Drop(node)
		case 1:
			v.Forget(map[bundle.NodeID]uint64{node: seq})
		default:
			_, _ = v.Merge(s, s)
		}
		want := map[bundle.Digest]bool{}
		for _, r := range slices.Collect(v.All()) {
			signed, _ := v.Signed(r.Node)
			want[signed.Sum()] = true
		}
		if !maps.Equal(want, v.held) {
			t.Fatalf("held %v, want %v", v.held, want)
		}
	}
}
