package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/agent/control"
	"moult/agent/node"
	"moult/agent/schedule"
	"moult/store"
	"moult/store/bundle"
	"moult/store/bundle/trust"
	"moult/testdata/kit"
	"moult/testdata/kit/bundles"
)

// judgeBench is an agent that a test hands things to, as its loop.
type judgeBench struct{ *bench }

func newJudge(t *testing.T, firstRoot []byte) *judgeBench {
	t.Helper()
	cfg := benchConfig(t)
	cfg.Services, cfg.FirstSync = nil, time.Hour
	if err := os.WriteFile(cfg.Root, firstRoot, 0o600); err != nil {
		t.Fatal(err)
	}
	j := &judgeBench{openBench(t, cfg)}
	j.flush()
	return j
}

// restarted returns the agent after a restart.
func (j *judgeBench) restarted() *judgeBench {
	j.t.Helper()
	j.flush()
	j.close()
	again := &judgeBench{openBench(j.t, j.cfg)}
	again.flush()
	return again
}

func (j *judgeBench) take(v *trust.Verified) {
	j.t.Helper()
	if err := j.acceptSet(encoded(j.t, v)); err != nil {
		j.t.Fatalf("a good set was refused: %v", err)
	}
}

func (j *judgeBench) frozen() []bundle.Version {
	return slices.DeleteFunc(run(1, 9), func(v bundle.Version) bool { return !j.node.Conflicted(v) })
}

func (j *judgeBench) alarmed(text string) bool {
	return slices.ContainsFunc(j.node.Alarms(), func(a string) bool { return strings.Contains(a, text) })
}

func encoded(t *testing.T, v *trust.Verified) []byte {
	t.Helper()
	data, err := v.Set().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// publisher is a trust folder and what it has signed.
type publisher struct {
	*trust.Folder
	t         *testing.T
	dir       string
	manifests [][]byte
}

func newPublisher(t *testing.T) *publisher {
	t.Helper()
	dir := filepath.Join(kit.MemDir(t), "trust")
	if err := trust.Init(dir, trust.InitOptions{Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	return openPublisher(t, dir)
}

func openPublisher(t *testing.T, dir string) *publisher {
	t.Helper()
	f, err := trust.OpenFolder(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &publisher{Folder: f, t: t, dir: dir}
}

// thief copies the folder, keys and all.
func (p *publisher) thief() *publisher {
	p.t.Helper()
	dir := filepath.Join(p.t.TempDir(), "trust")
	if err := os.CopyFS(dir, os.DirFS(p.dir)); err != nil {
		p.t.Fatal(err)
	}
	keys, err := filepath.Glob(filepath.Join(dir, "keys", "*"))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, k := range append(keys, filepath.Join(dir, "gossip.key")) { // CopyFS adds permissions
		if err := os.Chmod(k, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	other := openPublisher(p.t, dir)
	other.manifests = slices.Clone(p.manifests)
	return other
}

// release signs the next release; word makes its content.
func (p *publisher) release(word string) *trust.Verified {
	p.t.Helper()
	n := bundle.Version(len(p.manifests) + 1)
	var previous bundle.Digest
	if n > 1 {
		previous = bundle.Sum(p.manifests[n-2])
	}
	_, data := bundles.Manifest(p.t, n, previous, word)
	v, err := p.AddRelease(n, data)
	if err != nil {
		p.t.Fatal(err)
	}
	p.manifests = append(p.manifests, data)
	return v
}

// order signs an order for some nodes, and returns its bytes.
func (p *publisher) order(n, previous bundle.Version, serial uint64, nodes ...byte) []byte {
	p.t.Helper()
	o := &schedule.Order{
		Format: schedule.FormatVersion, Release: n, Manifest: bundle.Sum(p.manifests[n-1]), Serial: serial, Previous: previous,
		State:   schedule.StateRunning,
		Classes: map[bundle.Class]schedule.ClassOrder{"kv": {Strategy: bundle.StrategyRolling, MaxUnavailable: 1}},
	}
	c := o.Classes["kv"]
	for _, id := range nodes {
		c.Roster = append(c.Roster, bundle.NodeID{id})
	}
	o.Classes["kv"] = c
	return p.sign(o)
}

func (p *publisher) sign(o *schedule.Order) []byte {
	p.t.Helper()
	data, err := schedule.MarshalOrder(o)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.AddOrder(o.Release, o.Serial, data); err != nil {
		p.t.Fatal(err)
	}
	return data
}

// bring puts documents into the agent's depot, as a fetch would.
func (j *judgeBench) bring(docs ...[]byte) {
	j.t.Helper()
	for _, d := range docs {
		if _, err := j.Depot.PutBlob(d); err != nil {
			j.t.Fatal(err)
		}
	}
	j.step(node.LookAgain{})
	j.flush()
}

func (p *publisher) refresh() *trust.Verified {
	p.t.Helper()
	if err := p.Refresh(0); err != nil {
		p.t.Fatal(err)
	}
	return p.Current()
}

// TestFreezeSurvives: a peer to which the newer half of a conflict comes
// second keeps the older one as proof, freezes for good, and convinces others.
func TestFreezeSurvives(t *testing.T) {
	a := newPublisher(t)
	b := a.thief()
	first, _ := a.release("one"), b.release("eno")
	second := b.refresh()
	for name, sets := range map[string][]*trust.Verified{"the newer half last": {first, second}, "the newer half first": {second, first}} {
		j := newJudge(t, a.FirstRoot())
		for _, v := range sets {
			if err := j.acceptSet(encoded(t, v)); err != nil && !errors.Is(err, node.ErrOlder) && !errors.Is(err, trust.ErrRollback) {
				t.Fatal(err)
			}
			j.flush()
		}
		for when, j := range map[string]*judgeBench{"at once": j, "after a restart": j.restarted()} {
			if !j.node.Conflicted(1) {
				t.Errorf("%s, %s: release 1 is not frozen", name, when)
			}
			if j.node.Evidence().Digest != first.Digest() || j.trust.Digest() != second.Digest() {
				t.Errorf("%s, %s: the evidence is not the half that is not in force", name, when)
			}
			joiner := newJudge(t, a.FirstRoot())
			joiner.take(j.trust)
			if err := joiner.acceptSet(encoded(t, j.sets[j.node.Evidence().Digest])); err == nil || !joiner.node.Conflicted(1) {
				t.Errorf("%s, %s: a late joiner does not freeze: %v", name, when, err)
			}
		}
	}
}

// TestFreezeAll: every release in conflict freezes, and a later conflict thaws
// none.
func TestFreezeAll(t *testing.T) {
	a := newPublisher(t)
	a.release("one")
	b := a.thief()
	a.release("two")
	c := a.thief()
	ours := a.release("three")
	j := newJudge(t, a.FirstRoot())
	j.take(ours)
	c.release("another three")
	b.release("another two")
	two := b.release("yet another three")
	if err := j.acceptSet(encoded(t, c.Current())); err == nil || !slices.Equal(j.frozen(), []bundle.Version{3}) {
		t.Errorf("after one conflict: frozen %v, %v", j.frozen(), err)
	}
	if err := j.acceptSet(encoded(t, two)); err == nil || !slices.Equal(j.frozen(), []bundle.Version{2, 3}) {
		t.Errorf("after two conflicts: frozen %v, %v", j.frozen(), err)
	}
	if j.node.Evidence().Digest != two.Digest() {
		t.Error("the evidence is not the set that proves most")
	}
	ref, _ := ours.Release(2)
	j = j.restarted()
	held, err := j.Recall(0)
	if !slices.Equal(j.frozen(), []bundle.Version{2, 3}) || err != nil || held.Frozen[2] != ref.Digest {
		t.Errorf("after a restart: frozen %v", j.frozen())
	}
	// The next release does not thaw them.
	j.take(a.release("four"))
	if !slices.Equal(j.frozen(), []bundle.Version{2, 3}) || j.node.Conflicted(4) || j.node.Evidence().Digest != two.Digest() {
		t.Errorf("after the next release: frozen %v", j.frozen())
	}
}

// TestThaw: when the key that signed twice is replaced, what the new one says counts,
// also after a restart.
func TestThaw(t *testing.T) {
	a := newPublisher(t)
	b := a.thief()
	ours, evil := a.release("one"), b.release("eno")
	j := newJudge(t, a.FirstRoot())
	j.take(ours)
	if err := j.acceptSet(encoded(t, evil)); err == nil || !j.node.Conflicted(1) {
		t.Fatalf("release 1 is not frozen, so this test shows nothing: %v", err)
	}
	if err := a.RotatePublisher(); err != nil {
		t.Fatal(err)
	}
	j.take(a.Current())
	for when, j := range map[string]*judgeBench{"at once": j, "after a restart": j.restarted()} {
		if j.node.Conflicted(1) || !j.node.Evidence().Digest.IsZero() || j.alarmed("signed twice") {
			t.Errorf("%s: frozen %v, evidence %s, alarms %q", when, j.frozen(), j.node.Evidence().Digest, j.node.Alarms())
		}
	}
}

// TestFreezeBeyondProof: one proof is kept, and what it does not prove stays
// frozen too, also after a restart.
func TestFreezeBeyondProof(t *testing.T) {
	a := newPublisher(t)
	a.release("one")
	b := a.thief()
	a.release("two")
	c := a.thief()
	ours := a.release("three")
	j := newJudge(t, a.FirstRoot())
	j.take(ours)
	for _, other := range []*trust.Verified{b.release("another two"), c.release("another three")} {
		if err := j.acceptSet(encoded(t, other)); err == nil {
			t.Error("a set that is not newer is in force")
		}
	}
	if n := len(j.node.Metadata().Conflicts(j.node.Evidence())); n != 1 {
		t.Fatalf("the proof is of %d conflicts, want 1 for this test to tell anything", n)
	}
	if j = j.restarted(); !slices.Equal(j.frozen(), []bundle.Version{2, 3}) {
		t.Errorf("after a restart: frozen %v", j.frozen())
	}
}

// TestFloorRefuses: after the loss of the database nothing below the floor
// comes into force, neither by gossip nor by an operator's hand.
func TestFloorRefuses(t *testing.T) {
	p := newPublisher(t)
	v := p.release("one")
	for name, raise := range map[string]func(*store.Floor){
		"timestamp": func(f *store.Floor) { f.Timestamp = 100 },
		"operator":  func(f *store.Floor) { f.Operator = 1 },
		"release":   func(f *store.Floor) { f.Release = 2 },
	} {
		j := newJudge(t, p.FirstRoot())
		if err := j.Store.Raise(raise); err != nil {
			t.Fatal(err)
		}
		j = j.restarted()
		raw := encoded(t, v)
		if err := j.acceptSet(raw); !errors.Is(err, trust.ErrRollback) {
			t.Errorf("%s: by gossip: %v", name, err)
		}
		if err := j.accept(control.Signed{Set: raw}); err == nil || !strings.Contains(err.Error(), trust.ErrRollback.Error()) {
			t.Errorf("%s: by hand: %v", name, err)
		}
		if j.trust.Head() != 0 || !j.node.BelowFloor() {
			t.Errorf("%s: release %d is in force", name, j.trust.Head())
		}
	}
}

// TestSetAgain: the set in force, handed over again, is no error.
func TestSetAgain(t *testing.T) {
	p := newPublisher(t)
	p.release("one")
	order := p.order(1, 0, 1, 1)
	raw := encoded(t, p.Current())
	j := newJudge(t, p.FirstRoot())
	for range 2 {
		if err := j.acceptSet(raw); err != nil {
			t.Fatal(err)
		}
	}
	// The second time it may bring the document that was missing.
	if err := j.accept(control.Signed{Set: raw, Orders: map[bundle.Version][]byte{1: order}}); err != nil || j.node.Orders()[1] == nil {
		t.Errorf("order %v, %v", j.node.Orders()[1], err)
	}
}

// TestOrdersFormOneLine: what may not follow the order in force never takes
// its place, also not after a restart.
func TestOrdersFormOneLine(t *testing.T) {
	for name, tc := range map[string]struct {
		nodes  []byte
		serial uint64
		text   string
	}{
		"the same serial, another roster": {[]byte{1, 2, 4}, 2, "serial 2"},
		"a later one without a node":      {[]byte{2}, 3, "only grows"},
	} {
		p := newPublisher(t)
		manifest := p.manifestOf("one")
		first := p.order(1, 0, 1, 1, 2)
		other := p.thief()
		second := p.order(1, 0, 2, 1, 2, 3)
		j := newJudge(t, p.FirstRoot())
		j.take(p.Current())
		j.bring(manifest, first, second)
		bad := other.order(1, 0, tc.serial, tc.nodes...)
		for range 3 {
			other.refresh()
		}
		if err := j.checkOrder(other.Current(), 1, bad); err == nil || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: handed over: %v", name, err)
		}
		j.take(other.Current())
		j.bring(bad)
		for when, j := range map[string]*judgeBench{"at once": j, "after a restart": j.restarted()} {
			if o := j.node.Orders()[1]; o == nil || len(o.Classes["kv"].Roster) != 3 || o.Classes["kv"].Roster[2] != (bundle.NodeID{3}) {
				t.Errorf("%s, %s: in force is %+v", name, when, o)
			}
			if !j.alarmed(tc.text) || !j.node.OrderPending(1) {
				t.Errorf("%s, %s: alarms %q, pending %v", name, when, j.node.Alarms(), j.node.OrderPending(1))
			}
			if j.node.BoundOrders()[1] != bundle.Sum(second) {
				t.Errorf("%s, %s: the order in force would be swept", name, when)
			}
		}
	}
}

// manifestOf signs the next release and returns its manifest.
func (p *publisher) manifestOf(word string) []byte {
	p.release(word)
	return p.manifests[len(p.manifests)-1]
}

// TestOrderOnItsWay: an order binds from when the metadata name it.
func TestOrderOnItsWay(t *testing.T) {
	p := newPublisher(t)
	manifest := p.manifestOf("one")
	j := newJudge(t, p.FirstRoot())
	j.take(p.Current())
	if j.node.OrderPending(1) {
		t.Error("an order that nobody signed is on its way")
	}
	first := p.order(1, 0, 1, 1)
	j.take(p.Current())
	if !j.node.OrderPending(1) {
		t.Error("the first order is not awaited")
	}
	j.bring(manifest, first)
	if j.node.OrderPending(1) {
		t.Error("the order is here, and is awaited")
	}
	o := *j.node.Orders()[1]
	paused, err := o.Pause()
	if err != nil {
		t.Fatal(err)
	}
	data := p.sign(paused)
	j.take(p.Current())
	if !j.node.OrderPending(1) || j.node.Orders()[1].Serial != 1 {
		t.Error("the node would go on by an order that is paused")
	}
	j.bring(data)
	if j.node.OrderPending(1) || j.node.Orders()[1].State != schedule.StatePaused {
		t.Error("the newer order is here, and not in force")
	}
}

// TestFirstOrderFollows: a first order that forgets the one before, or nodes
// that may be down under it, or that is for another manifest, is refused.
func TestFirstOrderFollows(t *testing.T) {
	for name, tc := range map[string]struct {
		sign func(*publisher) []byte
		text string
	}{
		"no predecessor":      {func(p *publisher) []byte { return p.order(2, 0, 1, 1, 2) }, "comes after the order of release 0"},
		"a node left out":     {func(p *publisher) []byte { return p.order(2, 1, 1, 1) }, "leaves out node"},
		"another's manifest":  {func(p *publisher) []byte { p.manifests[1] = p.manifests[0]; return p.order(2, 1, 1, 1, 2) }, "is for manifest"},
		"what it should have": {func(p *publisher) []byte { return p.order(2, 1, 1, 1, 2) }, ""},
	} {
		p := newPublisher(t)
		docs := [][]byte{p.manifestOf("one"), p.order(1, 0, 1, 1, 2), p.manifestOf("two")}
		j := newJudge(t, p.FirstRoot())
		j.take(p.Current())
		j.bring(docs...)
		bad := tc.sign(p)
		j.take(p.Current())
		j.bring(bad)
		taken := j.node.Orders()[2] != nil
		if taken != (tc.text == "") || j.node.OrderPending(2) == taken || (!taken && !j.alarmed(tc.text)) {
			t.Errorf("%s: taken %v, alarms %q", name, taken, j.node.Alarms())
		}
	}
}

// TestDocumentsStay: documents are read once.
func TestDocumentsStay(t *testing.T) {
	p := newPublisher(t)
	docs := [][]byte{p.manifestOf("one"), p.order(1, 0, 1, 1)}
	j := newJudge(t, p.FirstRoot())
	j.take(p.Current())
	j.bring(docs...)
	m, o := j.node.Manifests()[1], j.node.Orders()[1]
	if m == nil || o == nil {
		t.Fatal("the documents are not here")
	}
	j.take(p.refresh())
	if j.node.Manifests()[1] != m || j.node.Orders()[1] != o {
		t.Error("unchanged documents were parsed again")
	}
	// One that has left the disk is fetched again, and stays in force meanwhile.
	if _, err := j.Depot.Sweep(nil); err != nil {
		t.Fatal(err)
	}
	j.step(node.LookAgain{})
	j.flush()
	if j.node.MissingDocuments() != 2 || j.node.Manifests()[1] != m || j.node.Orders()[1] != o {
		t.Errorf("after they have left the disk: %d missing", j.node.MissingDocuments())
	}
}
