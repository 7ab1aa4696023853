package archive

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"moult/store/bundle"
	"moult/store/bundle/trust"
	"moult/testdata/kit/bundles"
)

// day is when all tests happen; signatures are good for a year from it.
var day = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a trust folder with two releases and an order, and small blobs.
type world struct {
	folder *trust.Folder
	first  []byte
	v      *trust.Verified
	docs   Docs
	blobs  []Blob
}

func newFolder(t testing.TB) *trust.Folder {
	t.Helper()
	return bundles.Folder(t, filepath.Join(t.TempDir(), "trust"), day)
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{folder: newFolder(t), docs: Docs{Manifests: map[bundle.Version][]byte{}, Orders: map[bundle.Version][]byte{}}}
	w.first = w.folder.FirstRoot()
	w.release(t, manifest(1, bundle.Digest{}, "software one", "", ""))
	w.release(t, manifest(2, bundle.Sum(w.docs.Manifests[1]), "software two", "rules of the past", "rules of the future"))
	w.blobs = blobs("software two", "rules of the past", "rules of the future")
	order := []byte(`{"an":"order"}`)
	v, err := w.folder.AddOrder(2, 1, order)
	if err != nil {
		t.Fatal(err)
	}
	w.v, w.docs.Orders[2] = v, order
	return w
}

func (w *world) release(t testing.TB, m *bundle.Manifest) {
	t.Helper()
	data, err := bundle.MarshalManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	if w.v, err = w.folder.AddRelease(m.Version, data); err != nil {
		t.Fatal(err)
	}
	w.docs.Manifests[m.Version] = data
}

// bytes returns the world as a bundle.
func (w *world) bytes(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := Write(&buf, w.v, w.docs, w.blobs); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func chunk(content string) bundle.Chunk {
	return bundle.Chunk{Digest: bundle.Sum([]byte(content)), Length: int64(len(content))}
}

func blobs(contents ...string) []Blob {
	var all []Blob
	for _, c := range contents {
		all = append(all, Blob{Chunk: chunk(c), Content: bytes.NewReader([]byte(c))})
	}
	return all
}

// manifest returns a valid manifest of one class. Without rules it installs.
func manifest(n bundle.Version, previous bundle.Digest, software, past, future string) *bundle.Manifest {
	c := chunk(software)
	u := bundle.ClassUpgrade{
		Artifacts: []bundle.Artifact{{
			Platform: bundle.Platform{OS: "linux", Arch: "amd64"},
			Digest:   c.Digest, Length: c.Length, Chunks: []bundle.Chunk{c},
		}},
		Command:  []string{"./kv"},
		Services: map[string]bundle.Service{"api": {Protocol: bundle.ProtocolHTTP}},
		Health: bundle.Health{
			HTTP: "/healthz", Service: "api",
			Interval: bundle.Duration(time.Second), HealthyDeadline: bundle.Duration(time.Minute),
		},
		Schedule: bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "1", FailureMax: 1},
	}
	if past != "" {
		u.From = n - 1
		u.Past = bundle.Simulation{Kind: bundle.SimulateRules, Rules: chunk(past)}
		u.Future = bundle.Simulation{Kind: bundle.SimulateRules, Rules: chunk(future)}
	}
	return &bundle.Manifest{
		Format: bundle.FormatVersion, Version: n, Previous: previous,
		Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": u},
	}
}

// item is one entry of a tar under test: its header as it will be written, and
// its content, which need not fit together.
type item struct {
	header [blockBytes]byte
	data   []byte
}

func (i *item) name() string { return text(i.header[:nameEnd]) }

// set makes the entry a plain, well-formed one.
func (i *item) set(name string, data []byte) {
	i.header, i.data = header(name, int64(len(data))), data
}

// seal computes the header's checksum again after a change.
func (i *item) seal() {
	copy(i.header[checkStart:checkEnd], "        ")
	sum := int64(0)
	for _, b := range i.header {
		sum += int64(b)
	}
	octal(i.header[checkStart:checkEnd-1], sum)
}

// split takes a bundle apart.
func split(t testing.TB, data []byte) []item {
	t.Helper()
	var items []item
	for len(data) > trailerBytes {
		var i item
		copy(i.header[:], data)
		_, size, err := parseHeader(&i.header)
		if err != nil {
			t.Fatal(err)
		}
		i.data = bytes.Clone(data[blockBytes : blockBytes+size])
		items = append(items, i)
		data = data[blockBytes+roundUp(size):]
	}
	return items
}

// join is the inverse of split.
func join(items []item) []byte {
	var buf bytes.Buffer
	for _, i := range items {
		buf.Write(i.header[:])
		buf.Write(i.data)
		buf.Write(make([]byte, roundUp(int64(len(i.data)))-int64(len(i.data))))
	}
	buf.Write(make([]byte, trailerBytes))
	return buf.Bytes()
}
