package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"moult/store/bundle"
)

func TestVerify(t *testing.T) {
	c := newCluster(t)
	s := c.set()
	v := c.verify(nil, s)
	if got := v.Versions(); got != c.versions {
		t.Errorf("versions %+v, want %+v", got, c.versions)
	}
	if got := fmt.Sprint(v.Releases(), v.Head(), v.Orders()); got != "[1 2] 2 [1]" {
		t.Errorf("releases, head, orders: %s", got)
	}
	if r, ok := v.Release(2); !ok || r != refOf([]byte("manifest2")) {
		t.Errorf("release 2: %v %v", r, ok)
	}
	if r, ok := v.Order(1); !ok || r != refOf([]byte("order1")) {
		t.Errorf("order 1: %v %v", r, ok)
	}
	if got, want := fmt.Sprint(v.Publishers(), v.Operators()), fmt.Sprint([]string{c.publisher.id}, []string{c.operator.id}); got != want {
		t.Errorf("signed by %s, want %s", got, want)
	}
	if _, ok := v.Order(2); ok {
		t.Error("an order for release 2 out of nothing")
	}
	if v.Cluster() != bundle.Sum(c.first()) {
		t.Error("the cluster is not the digest of its first root")
	}
	data, err := v.Set().Marshal()
	if err != nil || bundle.Sum(data) != v.Digest() {
		t.Errorf("digest %s is not of the encoding: %v", v.Digest(), err)
	}
	back, err := ParseSet(data)
	if err != nil || c.verify(v, back).Digest() != v.Digest() {
		t.Errorf("the set does not come back: %v", err)
	}
}

// TestVerifiedIsImmutable changes everything that went in and came out.
func TestVerifiedIsImmutable(t *testing.T) {
	c := newCluster(t)
	s := c.set()
	v := c.verify(nil, s)
	for _, set := range []Set{s, v.Set()} {
		clear(set.Timestamp)
		clear(set.Roots[0])
		set.Roots[0] = nil
	}
	if data, err := v.Set().Marshal(); err != nil || bundle.Sum(data) != v.Digest() {
		t.Errorf("a verified set has changed: %v", err)
	}
}

func TestGenesis(t *testing.T) {
	c := newCluster(t)
	g, err := Genesis(c.first())
	if err != nil {
		t.Fatal(err)
	}
	if g.Versions() != (Versions{Root: 1}) || g.Head() != 0 || len(g.Releases()) != 0 {
		t.Errorf("genesis knows too much: %+v, head %d", g.Versions(), g.Head())
	}
	if !g.Expires().Equal(g.Lasts()) || g.Expires().IsZero() {
		t.Errorf("genesis, which has no timestamp, expires %s, and lasts until %s", g.Expires(), g.Lasts())
	}
	data, err := g.Set().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSet(data)
	if err != nil {
		t.Fatal(err)
	}
	if again := c.verify(nil, s); again.Digest() != g.Digest() {
		t.Error("genesis does not come back from its own set")
	}
	v := c.verify(g, c.set())
	if !Newer(g, v) || Newer(v, g) || Newer(v, v) || !Newer(nil, g) || Newer(g, nil) {
		t.Error("Newer does not order genesis, v and nil")
	}
	if _, err := Verify(c.first(), v, g.Set()); !errors.Is(err, ErrRollback) {
		t.Errorf("back to genesis: %v", err)
	}
	if _, err := Genesis([]byte("{}")); !errors.Is(err, ErrMalformed) {
		t.Errorf("genesis of rubbish: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	soon := start.Add(time.Hour)
	for _, tc := range []struct {
		name   string
		change func(*cluster)
	}{
		{"root", func(c *cluster) {
			c.roots = [][]byte{c.makeRoot(1, func(r *metadata.RootType) { r.Expires = soon }, c.root)}
		}},
		{"timestamp", func(c *cluster) { c.onTimestamp = func(s *metadata.TimestampType) { s.Expires = soon } }},
		{"snapshot", func(c *cluster) { c.onSnapshot = func(s *metadata.SnapshotType) { s.Expires = soon } }},
		{"targets", func(c *cluster) { c.onTargets = func(s *metadata.TargetsType) { s.Expires = soon } }},
		{"operator", func(c *cluster) { c.onOperator = func(s *metadata.TargetsType) { s.Expires = soon } }},
	} {
		c := newCluster(t)
		tc.change(c)
		v := c.verify(nil, c.set()) // long expired by any clock of today, and good all the same
		if !v.Expires().Equal(soon) {
			t.Errorf("%s: expires %s, want %s", tc.name, v.Expires(), soon)
		}
		if v.Expired(soon) || !v.Expired(soon.Add(time.Second)) {
			t.Errorf("%s: expired at the wrong instant", tc.name)
		}
		if v.Lasts().Equal(soon) == (tc.name == "timestamp") {
			t.Errorf("%s: lasts until %s", tc.name, v.Lasts())
		}
	}
}

// parts names the files of a set, to change them one at a time.
func parts(s *Set) map[string]*[]byte {
	return map[string]*[]byte{"root": &s.Roots[len(s.Roots)-1], "timestamp": &s.Timestamp,
		"snapshot": &s.Snapshot, "targets": &s.Targets, "operator": &s.Operator}
}

// TestTamperedBytes flips bits in, cuts and lengthens every file.
func TestTamperedBytes(t *testing.T) {
	inFull(t)
	t.Parallel()
	c := newCluster(t)
	c.roots = append(c.roots, c.makeRoot(2, nil, c.root))
	good := c.set()
	refused := func(what string, s Set) {
		t.Helper()
		if _, err := Verify(c.first(), nil, s); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUntrusted) {
			t.Errorf("%s: %v", what, err)
		}
	}
	const step = 37 // no multiple of 8, so that every bit has its turn
	for name := range parts(&good) {
		s := good.clone()
		data := parts(&s)[name]
		whole := *data
		for i := 0; i < len(whole); i += step {
			*data = flip(whole, i)
			refused(fmt.Sprintf("%s with byte %d flipped", name, i), s)
		}
		for i := 0; i < len(whole); i += 3 * step {
			if i == 0 && name == "operator" {
				continue // that is a set without an operator file: see TestRefused
			}
			*data = whole[:i]
			refused(fmt.Sprintf("%s cut after %d bytes", name, i), s)
		}
		for _, more := range []string{" ", "\n", "{}", "\x00"} {
			*data = append(bytes.Clone(whole), more...)
			refused(fmt.Sprintf("%s and %q", name, more), s)
		}
	}
}

// TestStockTUFTakesOtherForms shows why checkForm and checkSignatures are there:
// go-tuf alone accepts these changes, made without any key, as the same file.
func TestStockTUFTakesOtherForms(t *testing.T) {
	c := newCluster(t)
	for name, change := range map[string]func([]byte) []byte{
		"space": func(b []byte) []byte { return append(b, ' ') },
		"unsigned field": func(b []byte) []byte {
			return bytes.Replace(b, []byte(`{"signatures"`), []byte(`{"a":1,"signatures"`), 1)
		},
		"upper-case hex":    func(b []byte) []byte { return upperSignature(b) },
		"surplus signature": func(b []byte) []byte { return surplusSignature(t, b) },
	} {
		s := c.set()
		s.Timestamp = change(bytes.Clone(s.Timestamp))
		tm, err := trustedmetadata.New(c.first())
		if err != nil {
			t.Fatal(err)
		}
		tm.RefTime = time.Time{}
		if _, err := tm.UpdateTimestamp(s.Timestamp); err != nil {
			t.Errorf("%s: go-tuf refuses it by itself (%v): this case shows nothing", name, err)
		}
		if v, err := Verify(c.first(), nil, s); err == nil {
			t.Errorf("%s: a second form of one set was accepted as %s", name, v.Digest())
		}
	}
}

func upperSignature(b []byte) []byte {
	i := bytes.Index(b, []byte(`"sig":"`)) + len(`"sig":"`)
	return append(append(bytes.Clone(b[:i]), bytes.ToUpper(b[i:i+128])...), b[i+128:]...)
}

func surplusSignature(t *testing.T, b []byte) []byte {
	m, err := new(metadata.Metadata[metadata.TimestampType]).FromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	m.Signatures = append(m.Signatures, metadata.Signature{KeyID: strings.Repeat("f", 64), Signature: make([]byte, 64)})
	out, err := m.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRefused is the table of sets that are well formed as JSON, and mostly
// well signed, and wrong.
func TestRefused(t *testing.T) {
	t.Parallel()
	sha512 := func(f *metadata.TargetFiles) { f.Hashes["sha512"] = make([]byte, 64) }
	release := func(c *cluster, change func(*metadata.TargetsType)) { c.onTargets = change }
	order := func(c *cluster, change func(*metadata.TargetsType)) { c.onOperator = change }
	doc := target(refOf([]byte("x")))
	for _, tc := range []struct {
		name   string
		class  error
		change func(*cluster)
	}{
		{"timestamp by a stranger", ErrUntrusted, func(c *cluster) { c.signTimestamp = []*signingKey{testKey(t, "stranger")} }},
		{"timestamp by root", ErrUntrusted, func(c *cluster) { c.signTimestamp = []*signingKey{c.root} }},
		{"timestamp by nobody", ErrUntrusted, func(c *cluster) { c.signTimestamp = nil }},
		{"timestamp by operator and a stranger", ErrUntrusted, func(c *cluster) { c.signTimestamp = []*signingKey{c.operator, testKey(t, "stranger")} }},
		{"snapshot by a stranger", ErrUntrusted, func(c *cluster) { c.signSnapshot = []*signingKey{testKey(t, "stranger")} }},
		{"targets by the operator", ErrUntrusted, func(c *cluster) { c.signTargets = []*signingKey{c.operator} }},
		{"targets by root", ErrUntrusted, func(c *cluster) { c.signTargets = []*signingKey{c.root} }},
		{"orders by the publisher", ErrUntrusted, func(c *cluster) { c.signOperator = []*signingKey{c.publisher} }},
		{"orders by nobody", ErrUntrusted, func(c *cluster) { c.signOperator = nil }},
		{"one key twice", ErrMalformed, func(c *cluster) { c.signTimestamp = []*signingKey{c.operator, c.operator} }},
		{"root gap", ErrUntrusted, func(c *cluster) { c.roots = append(c.roots, c.makeRoot(3, nil, c.root)) }},
		{"root twice", ErrUntrusted, func(c *cluster) { c.roots = append(c.roots, c.roots[0]) }},
		{"root by a stranger", ErrUntrusted, func(c *cluster) {
			c.roots = append(c.roots, c.makeRoot(2, nil, testKey(t, "stranger")))
		}},
		{"root that names and signs for a stranger alone", ErrUntrusted, func(c *cluster) {
			s := *c
			s.root = testKey(t, "stranger")
			c.roots = append(c.roots, s.makeRoot(2, nil, s.root))
		}},
		{"root by the old key alone", ErrUntrusted, func(c *cluster) {
			s := *c
			s.root = testKey(t, "new root")
			c.roots = append(c.roots, s.makeRoot(2, nil, c.root))
		}},
		{"root without a role", ErrMalformed, func(c *cluster) {
			c.roots = append(c.roots, c.makeRoot(2, func(r *metadata.RootType) { delete(r.Roles, metadata.SNAPSHOT) }, c.root))
		}},
		{"root with threshold 0", ErrMalformed, func(c *cluster) {
			c.roots = append(c.roots, c.makeRoot(2, func(r *metadata.RootType) { r.Roles[metadata.TARGETS].Threshold = 0 }, c.root))
		}},
		{"root with threshold 2 of 1", ErrMalformed, func(c *cluster) {
			c.roots = append(c.roots, c.makeRoot(2, func(r *metadata.RootType) { r.Roles[metadata.TARGETS].Threshold = 2 }, c.root))
		}},
		{"root with one key listed twice", ErrMalformed, func(c *cluster) {
			c.roots = append(c.roots, c.makeRoot(2, func(r *metadata.RootType) {
				role := r.Roles[metadata.TARGETS]
				role.KeyIDs, role.Threshold = append(role.KeyIDs, role.KeyIDs[0]), 2
			}, c.root))
		}},
		{"root with a short key", ErrMalformed, func(c *cluster) {
			c.roots = append(c.roots, c.makeRoot(2, func(r *metadata.RootType) {
				k := &metadata.Key{Type: "ed25519", Scheme: "ed25519", Value: metadata.KeyVal{PublicKey: "00"}}
				if err := r.AddKey(k, metadata.TARGETS); err != nil {
					t.Fatal(err)
				}
			}, c.root))
		}},
		{"root with a key under another's ID", ErrMalformed, func(c *cluster) {
			c.roots = append(c.roots, c.makeRoot(2, func(r *metadata.RootType) { r.Keys[c.publisher.id] = testKey(t, "stranger").public }, c.root))
		}},
		{"hidden newest root", ErrUntrusted, func(c *cluster) {
			c.onSnapshot = func(s *metadata.SnapshotType) { s.Meta[rootFile] = pin(2, c.makeRoot(2, nil, c.root)) }
		}},
		{"newer root than the snapshot's", ErrUntrusted, func(c *cluster) {
			c.onSnapshot = func(s *metadata.SnapshotType) { s.Meta[rootFile] = pin(1, c.roots[0]) }
			c.roots = append(c.roots, c.makeRoot(2, nil, c.root))
		}},
		{"snapshot of another root version", ErrUntrusted, func(c *cluster) {
			c.onSnapshot = func(s *metadata.SnapshotType) { s.Meta[rootFile].Version = 7 }
		}},
		{"snapshot version beside the timestamp's", ErrUntrusted, func(c *cluster) {
			c.onTimestamp = func(s *metadata.TimestampType) { s.Meta[snapshotFile].Version++ }
		}},
		{"targets version beside the snapshot's", ErrUntrusted, func(c *cluster) {
			c.onSnapshot = func(s *metadata.SnapshotType) { s.Meta[targetsFile].Version++ }
		}},
		{"operator version beside the snapshot's", ErrUntrusted, func(c *cluster) {
			c.onSnapshot = func(s *metadata.SnapshotType) { s.Meta[operatorFile].Version++ }
		}},
		{"snapshot that pins by version only", ErrMalformed, func(c *cluster) {
			c.onSnapshot = func(s *metadata.SnapshotType) { s.Meta[targetsFile] = &metadata.MetaFiles{Version: c.versions.Targets} }
		}},
		{"snapshot with a further role", ErrMalformed, func(c *cluster) {
			c.onSnapshot = func(s *metadata.SnapshotType) { s.Meta["other.json"] = pin(1, []byte("x")) }
		}},
		{"timestamp with a further file", ErrMalformed, func(c *cluster) {
			c.onTimestamp = func(s *metadata.TimestampType) { s.Meta["other.json"] = pin(1, []byte("x")) }
		}},
		{"operator file that the snapshot does not name", ErrMalformed, func(c *cluster) { c.operatorUnnamed = true }},
		{"operator file missing", ErrMalformed, func(c *cluster) {
			c.noOperator = true
			c.onSnapshot = func(s *metadata.SnapshotType) { s.Meta[operatorFile] = pin(1, []byte("x")) }
		}},
		{"version 0", ErrMalformed, func(c *cluster) { c.versions.Timestamp = 0 }},
		{"version past the bound", ErrMalformed, func(c *cluster) { c.versions.Timestamp = MaxMetadataVersion + 1 }},
		{"timestamp version past those of its root", ErrMalformed, func(c *cluster) { c.versions.Timestamp = numbersPerRoot + 1 }},
		{"snapshot version past those of its root", ErrMalformed, func(c *cluster) { c.versions.Snapshot = numbersPerRoot + 1 }},
		{"targets version past those of its root", ErrMalformed, func(c *cluster) { c.versions.Targets = numbersPerRoot + 1 }},
		{"operator version past those of its root", ErrMalformed, func(c *cluster) { c.versions.Operator = numbersPerRoot + 1 }},
		{"another TUF", ErrMalformed, func(c *cluster) { release(c, func(s *metadata.TargetsType) { s.SpecVersion = "2.0.0" }) }},
		{"a number that not every reader has exactly", ErrMalformed, func(c *cluster) {
			release(c, func(s *metadata.TargetsType) {
				s.UnrecognizedFields = map[string]any{"x": json.Number("9007199254740993")}
			})
		}},
		{"release gap", ErrMalformed, func(c *cluster) { release(c, func(s *metadata.TargetsType) { s.Targets["releases/4.json"] = doc }) }},
		{"release 0", ErrMalformed, func(c *cluster) { release(c, func(s *metadata.TargetsType) { s.Targets["releases/0.json"] = doc }) }},
		{"release 03", ErrMalformed, func(c *cluster) { release(c, func(s *metadata.TargetsType) { s.Targets["releases/03.json"] = doc }) }},
		{"release +3", ErrMalformed, func(c *cluster) { release(c, func(s *metadata.TargetsType) { s.Targets["releases/+3.json"] = doc }) }},
		{"release 2^64+3", ErrMalformed, func(c *cluster) {
			release(c, func(s *metadata.TargetsType) { s.Targets["releases/18446744073709551619.json"] = doc })
		}},
		{"release outside", ErrMalformed, func(c *cluster) { release(c, func(s *metadata.TargetsType) { s.Targets["releases/../3.json"] = doc }) }},
		{"unknown path", ErrMalformed, func(c *cluster) { release(c, func(s *metadata.TargetsType) { s.Targets["notes.txt"] = doc }) }},
		{"publisher signs an order", ErrMalformed, func(c *cluster) { release(c, func(s *metadata.TargetsType) { s.Targets["rollouts/1.json"] = doc }) }},
		{"operator signs a release", ErrMalformed, func(c *cluster) { order(c, func(s *metadata.TargetsType) { s.Targets["releases/3.json"] = doc }) }},
		{"order for no release", ErrMalformed, func(c *cluster) { order(c, func(s *metadata.TargetsType) { s.Targets["rollouts/3.json"] = doc }) }},
		{"operator delegates on", ErrMalformed, func(c *cluster) {
			order(c, func(s *metadata.TargetsType) { s.Delegations = delegation(testKey(t, "stranger")) })
		}},
		{"release of no length", ErrMalformed, func(c *cluster) {
			release(c, func(s *metadata.TargetsType) { s.Targets["releases/2.json"].Length = 0 })
		}},
		{"release of a huge length", ErrMalformed, func(c *cluster) {
			release(c, func(s *metadata.TargetsType) { s.Targets["releases/2.json"].Length = bundle.MaxManifestBytes + 1 })
		}},
		{"order of a huge length", ErrMalformed, func(c *cluster) {
			order(c, func(s *metadata.TargetsType) { s.Targets["rollouts/1.json"].Length = MaxOrderBytes + 1 })
		}},
		{"release with a second hash", ErrMalformed, func(c *cluster) { release(c, func(s *metadata.TargetsType) { sha512(s.Targets["releases/2.json"]) }) }},
		{"no delegation", ErrMalformed, func(c *cluster) { release(c, func(s *metadata.TargetsType) { s.Delegations = nil }) }},
		{"operator may sign anything", ErrMalformed, func(c *cluster) {
			release(c, func(s *metadata.TargetsType) { s.Delegations.Roles[0].Paths = []string{"*"} })
		}},
		{"two delegations", ErrMalformed, func(c *cluster) {
			release(c, func(s *metadata.TargetsType) {
				s.Delegations.Roles = append(s.Delegations.Roles, s.Delegations.Roles[0])
			})
		}},
		{"too many releases", ErrMalformed, func(c *cluster) { c.releases = MaxReleases + 1 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			if tc.change(c); c.releases > MaxReleases {
				inFull(t)
			}
			_, err := Verify(c.first(), nil, c.set())
			if !errors.Is(err, tc.class) {
				t.Errorf("got %v, want %v", err, tc.class)
			}
		})
	}
}

// TestMisplaced gives each file in the place of each other.
func TestMisplaced(t *testing.T) {
	c := newCluster(t)
	good := c.set()
	for to := range parts(&good) {
		for from := range parts(&good) {
			s := good.clone()
			if *parts(&s)[to] = *parts(&good)[from]; to == from {
				continue
			}
			if _, err := Verify(c.first(), nil, s); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUntrusted) {
				t.Errorf("%s in the place of %s: %v", from, to, err)
			}
		}
	}
	other := newCluster(t)
	other.root = testKey(t, "other root")
	other.roots = [][]byte{other.makeRoot(1, nil, other.root)}
	if _, err := Verify(c.first(), nil, other.set()); !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "belongs to cluster") {
		t.Errorf("a set of another cluster: %v", err)
	}
}

// TestRawForms are files that no honest encoder writes, in every place.
func TestRawForms(t *testing.T) {
	c := newCluster(t)
	good := c.set()
	for _, raw := range []string{
		"", "null", "[]", "{}", `""`, "1", `{"signed":null,"signatures":[]}`, `{"signed":{},"signatures":[]}`,
		`{"signed":{"_type":"targets","targets":{"a":null}},"signatures":[]}`,
		`{"signed":{"_type":"root","keys":{"a":null},"roles":{"root":null}},"signatures":[]}`,
		`{"signed":{"_type":"timestamp","meta":{"snapshot.json":null}},"signatures":[]}`,
		`{"signed":{"_type":"snapshot","meta":null},"signatures":null}`,
		`{"signed":{"_type":"timestamp","_type":"timestamp"},"signatures":[]}`,
		strings.Repeat("[", 10000), strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000),
		"\xff\xfe", `{"signed":{"_type":"timestamp","version":1e400},"signatures":[]}`,
	} {
		for name := range parts(&good) {
			if raw == "" && name == "operator" {
				continue
			}
			s := good.clone()
			*parts(&s)[name] = []byte(raw)
			first := c.first()
			if name == "root" {
				first = s.Roots[0]
			}
			if _, err := Verify(first, nil, s); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUntrusted) {
				t.Errorf("%s %.60q: %v", name, raw, err)
			}
		}
	}
}

// TestThreshold wants two publishers.
func TestThreshold(t *testing.T) {
	c := newCluster(t)
	second := testKey(t, "second publisher")
	c.roots = [][]byte{c.makeRoot(1, func(r *metadata.RootType) {
		if err := r.AddKey(second.public, metadata.TARGETS); err != nil {
			t.Fatal(err)
		}
		r.Roles[metadata.TARGETS].Threshold = 2
	}, c.root)}
	if _, err := Verify(c.first(), nil, c.set()); !errors.Is(err, ErrUntrusted) {
		t.Errorf("one signature of two: %v", err)
	}
	c.signTargets = []*signingKey{c.publisher, c.publisher}
	if _, err := Verify(c.first(), nil, c.set()); err == nil {
		t.Error("one key signed twice and counted as two")
	}
	c.signTargets = []*signingKey{c.publisher, second}
	c.verify(nil, c.set())
	// One signature under the other key's name.
	s := c.set()
	m, err := new(metadata.Metadata[metadata.TargetsType]).FromBytes(s.Targets)
	if err != nil {
		t.Fatal(err)
	}
	m.Signatures[1].Signature = m.Signatures[0].Signature
	forged := c.must(m.ToBytes(false))
	c.onSnapshot = func(sn *metadata.SnapshotType) { sn.Meta[targetsFile] = pin(c.versions.Targets, forged) }
	s = c.set()
	s.Targets = forged
	if _, err := Verify(c.first(), nil, s); !errors.Is(err, ErrUntrusted) {
		t.Errorf("a signature under two names: %v", err)
	}
}

// TestUnknownSignedFields are carried, so that a later moult can add some.
func TestUnknownSignedFields(t *testing.T) {
	c := newCluster(t)
	c.onTimestamp = func(s *metadata.TimestampType) {
		s.UnrecognizedFields = map[string]any{"later": map[string]any{"n": 9007199254740991, "s": []any{"<&>", "é"}}}
	}
	s := c.set()
	if got := c.verify(nil, s).Set(); !bytes.Equal(got.Timestamp, s.Timestamp) {
		t.Error("a signed field was lost")
	}
}

func TestRollback(t *testing.T) {
	c := newCluster(t)
	c.versions = Versions{Root: 1, Timestamp: 9, Snapshot: 8, Targets: 7, Operator: 6}
	c.roots = append(c.roots, c.makeRoot(2, nil, c.root))
	prev := c.verify(nil, c.set())
	for _, tc := range []struct {
		name   string
		class  error
		change func(*cluster)
	}{
		{"same", nil, func(*cluster) {}},
		{"newer", nil, func(c *cluster) { c.versions = Versions{1, 10, 10, 10, 10} }},
		{"older timestamp", ErrRollback, func(c *cluster) { c.versions.Timestamp-- }},
		{"older snapshot", ErrRollback, func(c *cluster) { c.versions.Timestamp++; c.versions.Snapshot-- }},
		{"older targets", ErrRollback, func(c *cluster) { c.versions.Timestamp++; c.versions.Targets-- }},
		{"older operator", ErrRollback, func(c *cluster) { c.versions.Timestamp++; c.versions.Operator-- }},
		{"no operator", ErrRollback, func(c *cluster) { c.versions.Timestamp++; c.noOperator = true }},
		{"older root", ErrRollback, func(c *cluster) { c.versions.Timestamp++; c.roots = c.roots[:1] }},
		{"release vanished", ErrRollback, func(c *cluster) { c.versions.Timestamp++; c.versions.Targets++; c.releases = 1 }},
		{"order vanished", ErrRollback, func(c *cluster) { c.versions.Timestamp++; c.versions.Operator++; c.orders = 0 }},
		{"other root 2", ErrUntrusted, func(c *cluster) {
			c.versions.Timestamp++
			c.roots[1] = c.makeRoot(2, func(r *metadata.RootType) { r.Expires = start }, c.root)
		}},
		{"another root 2, with lower numbers", ErrUntrusted, func(c *cluster) {
			c.versions.Timestamp--
			c.roots[1] = c.makeRoot(2, func(r *metadata.RootType) { r.Expires = start }, c.root)
		}},
	} {
		next := *c
		next.roots = append([][]byte{}, c.roots...)
		tc.change(&next)
		s := next.set()
		v := c.verify(nil, s) // good by itself
		if _, err := Verify(c.first(), prev, s); !errors.Is(err, tc.class) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.class)
		}
		wantFloor := errors.Is(tc.class, ErrRollback) && !strings.Contains(tc.name, "vanished") || strings.Contains(tc.name, "lower")
		if err := v.CheckFloor(prev.Versions()); errors.Is(err, ErrRollback) != wantFloor {
			t.Errorf("%s: floor: %v", tc.name, err)
		}
	}
}

func TestConflicts(t *testing.T) {
	c := newCluster(t)
	c.releases = 4
	a := c.verify(nil, c.set())
	c.onTargets = func(s *metadata.TargetsType) {
		for _, path := range []string{"releases/2.json", "releases/4.json"} {
			s.Targets[path] = target(refOf([]byte("another")))
		}
	}
	forked := c.set()
	b, err := Verify(c.first(), a, forked)
	if err != nil {
		t.Fatalf("evidence must verify: %v", err)
	}
	for _, pair := range [][2]*Verified{{a, b}, {b, a}} {
		if ns := Conflicts(pair[0], pair[1]); !slices.Equal(ns, []bundle.Version{2, 4}) {
			t.Errorf("conflicts: %v, want 2 and 4", ns)
		}
		if Newer(pair[0], pair[1]) {
			t.Error("one side of a fork is newer than the other")
		}
	}
	for _, pair := range [][2]*Verified{{a, a}, {nil, a}, {a, nil}} {
		if ns := Conflicts(pair[0], pair[1]); len(ns) > 0 {
			t.Errorf("conflicts about %v out of nothing", ns)
		}
	}
}

// TestLargestSet is within MaxSetBytes, and reports what it costs.
func TestLargestSet(t *testing.T) {
	inFull(t)
	t.Parallel()
	c := newCluster(t)
	c.releases = MaxReleases
	s := c.set()
	if testing.Verbose() {
		t.Logf("targets %d bytes, operator %d bytes", len(s.Targets), len(s.Operator))
	}
	data, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	c.verify(nil, s)
	if _, err := ParseSet(data); err != nil {
		t.Error(err)
	}
	full := Set{Timestamp: make([]byte, MaxPinBytes), Snapshot: make([]byte, MaxPinBytes),
		Targets: make([]byte, MaxTargetsBytes), Operator: make([]byte, MaxTargetsBytes)}
	for range MaxRoots {
		full.Roots = append(full.Roots, make([]byte, MaxRootBytes))
	}
	data, err = full.Marshal()
	if err != nil || len(data) > MaxSetBytes {
		t.Errorf("a set at every bound takes %d bytes, over MaxSetBytes %d: %v", len(data), MaxSetBytes, err)
	}
}

func TestParseSet(t *testing.T) {
	c := newCluster(t)
	data := c.must(c.set().Marshal())
	for name, bad := range map[string][]byte{
		"empty":         nil,
		"null":          []byte("null"),
		"no roots":      []byte(`{"roots":[]}`),
		"empty root":    []byte(`{"roots":[""]}`),
		"partial":       []byte(`{"roots":["eA=="],"targets":"eA=="}`),
		"unknown field": bytes.Replace(data, []byte(`{"roots"`), []byte(`{"a":1,"roots"`), 1),
		"other case":    bytes.Replace(data, []byte(`"roots"`), []byte(`"Roots"`), 1),
		"space":         append(bytes.Clone(data), ' '),
		"too long":      make([]byte, MaxSetBytes+1),
		"too many":      []byte(`{"roots":[` + strings.Repeat(`"eA==",`, MaxRoots) + `"eA=="]}`),
	} {
		if _, err := ParseSet(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := 0; i < len(data); i += 11 {
		if _, err := ParseSet(data[:i]); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut after %d bytes: %v", i, err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, n := range []int{10, 1000, MaxReleases} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := newCluster(b)
			c.releases, c.orders = n, n
			s := c.set()
			for b.Loop() {
				c.verify(nil, s)
			}
		})
	}
}

// inFull leaves a long test out of `go test -short`, and so of make race: it has one goroutine, so a
// race detector has nothing to see.
func inFull(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("long, and of one goroutine")
	}
}
