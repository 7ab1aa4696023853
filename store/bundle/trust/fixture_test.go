package trust

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"moult/store/bundle"
	"moult/testdata/kit"
)

// start is the time at which every test begins.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// testKey is the same key for the same name in every run, so that corpora and
// failures can be repeated.
func testKey(t testing.TB, name string) *signingKey {
	t.Helper()
	seed := bundle.Sum([]byte("moult test key " + name))
	k, err := signingKeyOf(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// cluster makes sets by hand, step by step, so that a test can break any step.
// Each hook changes a file before it is signed; each list of keys is who signs.
type cluster struct {
	t                           testing.TB
	root, publisher, operator   *signingKey
	signTimestamp, signSnapshot []*signingKey
	signTargets, signOperator   []*signingKey
	onTargets, onOperator       func(*metadata.TargetsType)
	onSnapshot                  func(*metadata.SnapshotType)
	onTimestamp                 func(*metadata.TimestampType)
	versions                    Versions
	releases, orders            int
	noOperator, operatorUnnamed bool
	roots                       [][]byte
}

func newCluster(t testing.TB) *cluster {
	c := &cluster{
		t: t, root: testKey(t, "root"), publisher: testKey(t, "publisher"), operator: testKey(t, "operator"),
		versions: Versions{Root: 1, Timestamp: 5, Snapshot: 5, Targets: 3, Operator: 2}, releases: 2, orders: 1,
	}
	c.signTimestamp, c.signSnapshot = []*signingKey{c.operator}, []*signingKey{c.operator}
	c.signTargets, c.signOperator = []*signingKey{c.publisher}, []*signingKey{c.operator}
	c.roots = [][]byte{c.makeRoot(1, nil, c.root)}
	return c
}

func (c *cluster) first() []byte { return c.roots[0] }

// makeRoot signs a root; change may alter it first.
func (c *cluster) makeRoot(version int64, change func(*metadata.RootType), signers ...*signingKey) []byte {
	c.t.Helper()
	m := metadata.Root(start.AddDate(1, 0, 0))
	m.Signed.Version = version
	for role, keys := range map[string][]*signingKey{
		metadata.ROOT: {c.root}, metadata.TARGETS: {c.publisher},
		metadata.SNAPSHOT: {c.publisher, c.operator}, metadata.TIMESTAMP: {c.publisher, c.operator},
	} {
		for _, k := range keys {
			if err := m.Signed.AddKey(k.public, role); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	if change != nil {
		change(&m.Signed)
	}
	return c.must(signFile(m, signers...))
}

func (c *cluster) must(data []byte, err error) []byte {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
	return data
}

// set signs a set.
func (c *cluster) set() Set {
	c.t.Helper()
	s := Set{Roots: c.roots}
	expires := start.AddDate(1, 0, 0)
	t := metadata.Targets(expires)
	t.Signed.Version = c.versions.Targets
	t.Signed.Delegations = delegation(c.operator)
	for n := range c.releases {
		t.Signed.Targets[fmt.Sprintf("releases/%d.json", n+1)] = target(refOf([]byte(fmt.Sprint("manifest", n+1))))
	}
	if c.onTargets != nil {
		c.onTargets(&t.Signed)
	}
	s.Targets = c.must(signFile(t, c.signTargets...))
	o := metadata.Targets(expires)
	o.Signed.Version = c.versions.Operator
	for n := range c.orders {
		o.Signed.Targets[fmt.Sprintf("rollouts/%d.json", n+1)] = target(refOf([]byte(fmt.Sprint("order", n+1))))
	}
	if c.onOperator != nil {
		c.onOperator(&o.Signed)
	}
	if !c.noOperator {
		s.Operator = c.must(signFile(o, c.signOperator...))
	}
	sn := metadata.Snapshot(expires)
	sn.Signed.Version = c.versions.Snapshot
	sn.Signed.Meta = map[string]*metadata.MetaFiles{
		rootFile: pin(int64(len(s.Roots)), s.lastRoot()), targetsFile: pin(c.versions.Targets, s.Targets)}
	if !c.noOperator && !c.operatorUnnamed {
		sn.Signed.Meta[operatorFile] = pin(c.versions.Operator, s.Operator)
	}
	if c.onSnapshot != nil {
		c.onSnapshot(&sn.Signed)
	}
	s.Snapshot = c.must(signFile(sn, c.signSnapshot...))
	ts := metadata.Timestamp(expires)
	ts.Signed.Version = c.versions.Timestamp
	ts.Signed.Meta = map[string]*metadata.MetaFiles{snapshotFile: pin(c.versions.Snapshot, s.Snapshot)}
	if c.onTimestamp != nil {
		c.onTimestamp(&ts.Signed)
	}
	s.Timestamp = c.must(signFile(ts, c.signTimestamp...))
	return s
}

func (c *cluster) verify(prev *Verified, s Set) *Verified {
	c.t.Helper()
	v, err := Verify(c.first(), prev, s)
	if err != nil {
		c.t.Fatalf("a good set was refused: %v", err)
	}
	return v
}

// manifest is a small valid manifest of release n.
func manifest(t testing.TB, n bundle.Version, previous []byte, word string) []byte {
	t.Helper()
	m := &bundle.Manifest{Format: bundle.FormatVersion, Version: n, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {
		From: n - 1,
		Artifacts: []bundle.Artifact{{Platform: bundle.Platform{OS: "linux", Arch: "amd64"}, Digest: bundle.Sum([]byte(word)), Length: 4,
			Chunks: []bundle.Chunk{{Digest: bundle.Sum([]byte(word)), Length: 4}}}},
		Command:  []string{"./kv", "--state", "${state}"},
		Health:   bundle.Health{Notify: true, Interval: bundle.Duration(time.Second), HealthyDeadline: bundle.Duration(time.Minute)},
		Past:     bundle.Simulation{Kind: bundle.SimulateCompatible},
		Future:   bundle.Simulation{Kind: bundle.SimulateCompatible},
		Schedule: bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "1", FailureMax: 1},
	}}}
	if previous != nil {
		m.Previous = bundle.Sum(previous)
	}
	data, err := bundle.MarshalManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// initFolder makes a trust folder.
func initFolder(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(kit.MemDir(t), "trust")
	if err := Init(dir, InitOptions{Now: start}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// copyFolder copies a folder without the named keys.
func copyFolder(t testing.TB, dir string, without ...keyName) string {
	t.Helper()
	to := filepath.Join(kit.MemDir(t), "trust")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	// os.CopyFS adds permissions; keys must be private.
	keys, err := filepath.Glob(filepath.Join(to, keysDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range append(keys, filepath.Join(to, gossipKeyFile)) {
		if err := os.Chmod(k, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range without {
		if err := os.Remove(filepath.Join(to, keysDir, string(name)+".pem")); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func openFolder(t testing.TB, dir string) *Folder {
	t.Helper()
	f, err := OpenFolder(dir, start)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// flip changes one bit of a byte.
func flip(data []byte, i int) []byte {
	c := bytes.Clone(data)
	c[i] ^= 1 << (i % 8)
	return c
}
