package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/trust"
)

// testKey is a key pair with its name in TUF metadata.
type testKey struct {
	id     string
	public *metadata.Key
	signer signature.Signer
}

func newTestKey(t *testing.T) *testKey {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return testKeyOf(t, private)
}

func testKeyOf(t *testing.T, private ed25519.PrivateKey) *testKey {
	t.Helper()
	k := new(testKey)
	var err error
	if k.signer, err = signature.LoadED25519Signer(private); err != nil {
		t.Fatal(err)
	}
	if k.public, err = metadata.KeyFromPublicKey(private.Public()); err != nil {
		t.Fatal(err)
	}
	if k.id, err = k.public.ID(); err != nil {
		t.Fatal(err)
	}
	return k
}

// loadTestKey reads a key file of a trust folder.
func loadTestKey(t *testing.T, path string) *testKey {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("%s has no PEM block", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return testKeyOf(t, key.(ed25519.PrivateKey))
}

// forger signs the metadata of a bundle again, with any keys, by go-tuf alone:
// moult's own code would not sign what is wrong.
type forger struct {
	t                             *testing.T
	publisher, operator, stranger *testKey
	original                      []byte
	set                           trust.Set // as in the original
}

func newForger(t *testing.T, trustDir string, original []byte) *forger {
	t.Helper()
	f := &forger{
		t: t, original: original, stranger: newTestKey(t),
		publisher: loadTestKey(t, filepath.Join(trustDir, "keys", "publisher.pem")),
		operator:  loadTestKey(t, filepath.Join(trustDir, "keys", "operator.pem")),
	}
	root, err := os.ReadFile(filepath.Join(trustDir, "root.json"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := archive.Open(bytes.NewReader(original), int64(len(original)), root, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.set = b.Trust().Set()
	return f
}

// tufFile decodes one metadata file.
func tufFile[T metadata.Roles](t *testing.T, data []byte) *metadata.Metadata[T] {
	t.Helper()
	m, err := new(metadata.Metadata[T]).FromBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// tufSign replaces the signatures of a file. A key that is given twice signs twice.
func tufSign[T metadata.Roles](t *testing.T, m *metadata.Metadata[T], keys ...*testKey) []byte {
	t.Helper()
	m.Signatures = []metadata.Signature{}
	for _, k := range keys {
		if _, err := m.Sign(k.signer); err != nil {
			t.Fatal(err)
		}
	}
	slices.SortFunc(m.Signatures, func(a, b metadata.Signature) int { return cmp.Compare(a.KeyID, b.KeyID) })
	data, err := m.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func tufPin(version int64, data []byte) *metadata.MetaFiles {
	sum := bundle.Sum(data)
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

// seal names the files of a set in a new snapshot, and that in a new
// timestamp. All version numbers stay as they are in the original.
func (f *forger) seal(s trust.Set, snapshot, timestamp *testKey) trust.Set {
	f.t.Helper()
	sn := tufFile[metadata.SnapshotType](f.t, s.Snapshot)
	sn.Signed.Meta["root.json"] = tufPin(int64(len(s.Roots)), s.Roots[len(s.Roots)-1])
	sn.Signed.Meta["targets.json"] = tufPin(tufFile[metadata.TargetsType](f.t, f.set.Targets).Signed.Version, s.Targets)
	if len(s.Operator) > 0 {
		sn.Signed.Meta["operator.json"] = tufPin(tufFile[metadata.TargetsType](f.t, f.set.Operator).Signed.Version, s.Operator)
	}
	s.Snapshot = tufSign(f.t, sn, snapshot)
	ts := tufFile[metadata.TimestampType](f.t, s.Timestamp)
	ts.Signed.Meta["snapshot.json"] = tufPin(sn.Signed.Version, s.Snapshot)
	s.Timestamp = tufSign(f.t, ts, timestamp)
	return s
}

// withTargets has the releases signed by other keys. All else is in order.
func (f *forger) withTargets(keys ...*testKey) trust.Set {
	f.t.Helper()
	s := f.set
	s.Targets = tufSign(f.t, tufFile[metadata.TargetsType](f.t, s.Targets), keys...)
	return f.seal(s, f.operator, f.operator)
}

// withOperator has the rollout orders signed by another key.
func (f *forger) withOperator(key *testKey) trust.Set {
	f.t.Helper()
	s := f.set
	s.Operator = tufSign(f.t, tufFile[metadata.TargetsType](f.t, s.Operator), key)
	return f.seal(s, f.operator, f.operator)
}

// withRoot adds a root that makes key everybody's, signed by it alone.
func (f *forger) withRoot(key *testKey) trust.Set {
	f.t.Helper()
	s := f.set
	root := tufFile[metadata.RootType](f.t, s.Roots[len(s.Roots)-1])
	root.Signed.Version++
	for _, role := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		root.Signed.Roles[role].KeyIDs = nil
		if err := root.Signed.AddKey(key.public, role); err != nil {
			f.t.Fatal(err)
		}
	}
	s.Roots = append(slices.Clone(s.Roots), tufSign(f.t, root, key))
	return f.seal(s, key, key)
}

// foundCluster makes the set that of a new cluster, whose releases need
// threshold of the publishers' keys.
func (f *forger) foundCluster(threshold int, publishers ...*testKey) {
	f.t.Helper()
	owner := newTestKey(f.t)
	root := metadata.Root(time.Now().AddDate(1, 0, 0).UTC().Truncate(time.Second))
	add := func(role string, keys ...*testKey) {
		for _, k := range keys {
			if err := root.Signed.AddKey(k.public, role); err != nil {
				f.t.Fatal(err)
			}
		}
	}
	add(metadata.ROOT, owner)
	add(metadata.TARGETS, publishers...)
	add(metadata.SNAPSHOT, f.operator)
	add(metadata.TIMESTAMP, f.operator)
	root.Signed.Roles[metadata.TARGETS].Threshold = threshold
	f.set.Roots = [][]byte{tufSign(f.t, root, owner)}
	f.set = f.withTargets(publishers...)
}

// bundle writes the original bundle with other metadata.
func (f *forger) bundle(s trust.Set) []byte {
	f.t.Helper()
	files := []tarFile{}
	for i, r := range s.Roots {
		files = append(files, tarFile{"metadata/roots/" + string(rune('1'+i)) + ".json", r})
	}
	files = append(files, tarFile{"metadata/timestamp.json", s.Timestamp}, tarFile{"metadata/snapshot.json", s.Snapshot}, tarFile{"metadata/targets.json", s.Targets})
	if len(s.Operator) > 0 {
		files = append(files, tarFile{"metadata/operator.json", s.Operator})
	}
	r := tar.NewReader(bytes.NewReader(f.original))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			f.t.Fatal(err)
		}
		if strings.HasPrefix(h.Name, "metadata/") {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			f.t.Fatal(err)
		}
		files = append(files, tarFile{h.Name, data})
	}
	return writeTar(f.t, files)
}

type tarFile struct {
	name string
	data []byte
}

func writeTar(t *testing.T, files []tarFile) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, file := range files {
		err := w.WriteHeader(&tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.data)), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR})
		if err == nil {
			_, err = w.Write(file.data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
