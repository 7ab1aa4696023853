package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"moult/store/bundle"
	"moult/store/bundle/trust"
)

func openBytes(data, first []byte, prev *trust.Verified) (*Bundle, error) {
	return Open(bytes.NewReader(data), int64(len(data)), first, prev)
}

func TestRoundTrip(t *testing.T) {
	w := newWorld(t)
	data := w.bytes(t)
	b, err := openBytes(data, w.first, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b.Trust().Digest() != w.v.Digest() || b.Head().Version != 2 || len(b.Manifests()) != 2 {
		t.Errorf("head %d of %d manifests, metadata %s", b.Head().Version, len(b.Manifests()), b.Trust().Digest())
	}
	for n, want := range w.docs.Manifests {
		if !bytes.Equal(b.ManifestBytes(n), want) {
			t.Errorf("manifest of release %d differs", n)
		}
	}
	if order, ok := b.Order(2); !ok || !bytes.Equal(order, w.docs.Orders[2]) {
		t.Errorf("order %q", order)
	}
	if _, ok := b.Order(1); ok {
		t.Error("an order for release 1 from nowhere")
	}
	if len(b.Blobs()) != len(w.blobs) {
		t.Errorf("%d blobs, want %d", len(b.Blobs()), len(w.blobs))
	}
	for _, want := range w.blobs {
		r, ok := b.Blob(want.Digest)
		if !ok {
			t.Errorf("no blob %s", want.Digest)
			continue
		}
		got, err := io.ReadAll(r)
		if err != nil || bundle.Sum(got) != want.Digest {
			t.Errorf("blob %s reads %q, %v", want.Digest, got, err)
		}
	}
	if _, ok := b.Blob(bundle.Sum([]byte("software one"))); ok {
		t.Error("a blob of an older release")
	}
	var again bytes.Buffer
	docs, blobs := b.Contents()
	if err := Write(&again, b.Trust(), docs, blobs); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Bytes(), data) {
		t.Error("written again, it differs")
	}
}

// TestBytes pins what the order of arguments must not change, and that other
// tar programs read a bundle.
func TestBytes(t *testing.T) {
	w := newWorld(t)
	data := w.bytes(t)
	slices.Reverse(w.blobs)
	w.blobs = append(w.blobs, w.blobs[1])
	if !bytes.Equal(w.bytes(t), data) {
		t.Error("the bundle depends on the order of the blobs")
	}
	var names []string
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if hdr.Format != tar.FormatUSTAR || hdr.Mode != 0o644 || hdr.Typeflag != tar.TypeReg {
			t.Errorf("%+v", hdr)
		}
		if _, err := io.Copy(io.Discard, tr); err != nil {
			t.Fatal(err)
		}
		names = append(names, hdr.Name)
	}
	want := []string{
		"metadata/roots/1.json", "metadata/timestamp.json", "metadata/snapshot.json", "metadata/targets.json",
		"metadata/operator.json", "releases/1.json", "releases/2.json", "rollouts/2.json",
	}
	for _, c := range requiredBlobs(manifest(2, bundle.Digest{}, "software two", "rules of the past", "rules of the future")) {
		want = append(want, "blobs/sha256/"+c.Digest.Hex())
	}
	if !slices.Equal(names, want) {
		t.Errorf("entries\n%q, want\n%q", names, want)
	}
}

var update = flag.Bool("update", false, "write a new testdata/frozen.moult: never after a release of moult has read the old one")

// frozen returns a bundle that was written when the format was made, and its root.
func frozen(t testing.TB) (data, first []byte) {
	t.Helper()
	if *update {
		w := newWorld(t)
		if err := errors.Join(
			os.WriteFile("testdata/frozen.moult", w.bytes(t), 0o644),
			os.WriteFile("testdata/frozen-root.json", w.first, 0o644),
		); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile("testdata/frozen.moult")
	if err != nil {
		t.Fatal(err)
	}
	if first, err = os.ReadFile("testdata/frozen-root.json"); err != nil {
		t.Fatal(err)
	}
	return data, first
}

// TestFrozen: a bundle of today is opened in ten years, long after its
// signatures have expired.
func TestFrozen(t *testing.T) {
	data, first := frozen(t)
	b, err := openBytes(data, first, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b.Head().Version != 2 || len(b.Blobs()) != 3 {
		t.Errorf("release %d with %d blobs", b.Head().Version, len(b.Blobs()))
	}
	var again bytes.Buffer
	docs, blobs := b.Contents()
	if err := Write(&again, b.Trust(), docs, blobs); err != nil || !bytes.Equal(again.Bytes(), data) {
		t.Errorf("written again, it differs (%v)", err)
	}
}

// TestHeaderIsTar compares header with archive/tar.
func TestHeaderIsTar(t *testing.T) {
	for _, size := range []int64{0, 1, 511, 8<<30 - 1} {
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "blobs/x", Mode: 0o644, Size: size}); err != nil {
			t.Fatal(err)
		}
		if h := header("blobs/x", size); !bytes.Equal(h[:], buf.Bytes()) {
			t.Errorf("size %d:\n%q, archive/tar writes\n%q", size, h, buf.Bytes())
		}
	}
}

// remembered verifies each set once: most damage leaves the metadata as it is.
func remembered(first []byte) func(trust.Set) (*trust.Verified, error) {
	known := map[string]*trust.Verified{}
	return func(s trust.Set) (*trust.Verified, error) {
		key := string(bytes.Join(append(slices.Clone(s.Roots), s.Timestamp, s.Snapshot, s.Targets, s.Operator), []byte{0}))
		if v := known[key]; v != nil {
			return v, nil
		}
		v, err := trust.Verify(first, nil, s)
		if err == nil {
			known[key] = v
		}
		return v, err
	}
}

// A refusal must have a class; anything else would be a fault of the reader.
func classified(err error) bool {
	for _, class := range []error{ErrCorrupt, trust.ErrMalformed, trust.ErrUntrusted, trust.ErrRollback} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

func TestCutAtEveryByte(t *testing.T) {
	w := newWorld(t)
	data := w.bytes(t)
	verify := remembered(w.first)
	for n := 0; n < len(data); n += step {
		_, err := open(bytes.NewReader(data[:n]), int64(n), verify)
		if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut at byte %d of %d: %v", n, len(data), err)
		}
	}
	// A file that shrinks while it is read.
	for _, n := range []int{0, 700, len(data) - 1} {
		if _, err := open(bytes.NewReader(data[:n]), int64(len(data)), verify); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d of %d bytes left: %v", n, len(data), err)
		}
	}
}

// acceptedFlips changes one bit of each byte, beginning with first, and returns
// where open did not mind.
func acceptedFlips(t *testing.T, data []byte, first int, open func([]byte) error) (accepted []int) {
	t.Helper()
	changed := bytes.Clone(data)
	for i := first; i < len(data); i += step {
		changed[i] ^= 1 << (i % 8)
		err := open(changed)
		changed[i] = data[i]
		if err == nil {
			accepted = append(accepted, i)
		} else if !classified(err) {
			t.Errorf("byte %d: unclassified error %v", i, err)
		}
	}
	return accepted
}

func TestFlippedBitAtEveryByte(t *testing.T) {
	w := newWorld(t)
	data := w.bytes(t)
	verify := remembered(w.first)
	strict := func(data []byte) error {
		_, err := open(bytes.NewReader(data), int64(len(data)), verify)
		return err
	}
	if got := acceptedFlips(t, data, 0, strict); len(got) > 0 {
		t.Errorf("flips accepted at bytes %v", got)
	}
	// The planted bug: a reader built on archive/tar, which looks neither at
	// padding nor at the fields that it does not need.
	lenient := func(data []byte) error {
		var items []item
		tr := tar.NewReader(bytes.NewReader(data))
		for {
			hdr, err := tr.Next()
			if errors.Is(err, io.EOF) {
				return strict(join(items))
			}
			if err != nil {
				return fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
			content, err := io.ReadAll(tr)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
			var i item
			i.set(hdr.Name, content)
			items = append(items, i)
		}
	}
	if got := acceptedFlips(t, data, len(data)-4*blockBytes, lenient); len(got) == 0 {
		t.Error("the test does not see that archive/tar alone accepts flips in padding")
	}
}

// TestRefused changes a good bundle in the ways that an attacker would.
func TestRefused(t *testing.T) {
	w := newWorld(t)
	good := w.bytes(t)
	find := func(items []item, prefix string) int {
		return slices.IndexFunc(items, func(i item) bool { return strings.HasPrefix(i.name(), prefix) })
	}
	for _, tc := range []struct {
		name   string
		change func(items []item) []item
		raw    func(data []byte) []byte
		want   error
		says   string
	}{
		{name: "empty", raw: func([]byte) []byte { return nil }, says: "cut short"},
		{name: "only a trailer", change: func([]item) []item { return nil }, says: "got the end"},
		{name: "something else", raw: func([]byte) []byte { return bytes.Repeat([]byte("hello "), 1000) }, says: "not a header"},
		{name: "gzip", raw: func(d []byte) []byte { return append([]byte{0x1f, 0x8b}, d...) }, says: "not a header"},
		{name: "trailing zeros", raw: func(d []byte) []byte { return append(d, make([]byte, 512)...) }, says: "something follows"},
		{name: "trailing garbage", raw: func(d []byte) []byte { return append(d, 'x') }, says: "something follows"},
		{name: "two bundles", raw: func(d []byte) []byte { return append(d, d...) }, says: "something follows"},
		{name: "half a trailer", raw: func(d []byte) []byte { return d[:len(d)-512] }, says: "cut short"},
		{name: "parent folder", change: rename("releases/1", "../releases/1.json"), says: "../releases"},
		{name: "absolute", change: rename("releases/1", "/etc/passwd"), says: "/etc/passwd"},
		{name: "unknown name", change: rename("rollouts/2", "README"), says: "README"},
		{name: "unclean name", change: rename("releases/1", "releases//1.json"), says: "releases//1"},
		{name: "number with zero", change: rename("releases/1", "releases/01.json"), says: "releases/01"},
		{name: "symbolic link", change: typed("releases/1", tar.TypeSymlink), says: "plain files only"},
		{name: "hard link", change: typed("blobs/", tar.TypeLink), says: "plain files only"},
		{name: "device", change: typed("blobs/", tar.TypeChar), says: "plain files only"},
		{name: "folder", change: typed("metadata/", tar.TypeDir), says: "plain files only"},
		{name: "pax header", change: typed("metadata/", tar.TypeXHeader), says: "plain files only"},
		{name: "sparse", change: typed("blobs/", tar.TypeGNUSparse), says: "plain files only"},
		{name: "other mode", change: edit("blobs/", func(i *item) { octal(i.header[modeStart:modeEnd], 0o4755) }), says: "not a header"},
		{name: "owner", change: edit("blobs/", func(i *item) { copy(i.header[265:], "root") }), says: "not a header"},
		{name: "size in base 256", change: edit("blobs/", func(i *item) { i.header[sizeStart] = 0x80 }), says: "not a header"},
		{name: "negative size", change: edit("blobs/", func(i *item) { copy(i.header[sizeStart:sizeEnd], "-0000000001\x00") }), says: "not a header"},
		{name: "endless entry", change: edit("metadata/", func(i *item) { i.header = header(i.name(), 8<<30-1) }), says: "cut short"},
		{name: "duplicate", change: func(is []item) []item { return slices.Insert(is, 1, is[0]) }, says: `want metadata/timestamp.json`},
		{name: "duplicate release", change: func(is []item) []item { n := find(is, "releases/1"); return slices.Insert(is, n, is[n]) }, says: "in order"},
		{name: "duplicate blob", change: func(is []item) []item { n := find(is, "blobs/"); return slices.Insert(is, n, is[n]) }, says: "want blobs/"},
		{name: "releases out of order", change: func(is []item) []item { n := find(is, "releases/1"); is[n], is[n+1] = is[n+1], is[n]; return is }, says: "in order"},
		{name: "blobs out of order", change: func(is []item) []item { n := len(is) - 1; is[n], is[n-1] = is[n-1], is[n]; return is }, says: "want blobs/"},
		{name: "no root", change: drop("metadata/roots"), says: "want metadata/roots/1.json"},
		{name: "no timestamp", change: drop("metadata/timestamp"), says: "want metadata/timestamp.json"},
		{name: "no targets", change: drop("metadata/targets"), says: "want metadata/targets.json"},
		{name: "no operator", change: drop("metadata/operator"), want: trust.ErrMalformed},
		{name: "no newest manifest", change: drop("releases/2"), says: "want releases/2.json"},
		{name: "missing blob", change: drop("blobs/"), says: "want blobs/"},
		{name: "no blob", change: func(is []item) []item { return is[:find(is, "blobs/")] }, says: "got the end"},
		{name: "surplus blob", change: func(is []item) []item {
			var i item
			i.set("blobs/sha256/"+strings.Repeat("f", 64), []byte("bomb"))
			return append(is, i)
		}, says: "want the end"},
		{name: "other blob", change: edit("blobs/", func(i *item) { i.data[0]++ }), says: "digest"},
		{name: "longer blob", change: content("blobs/", "software twoo"), says: "signed for"},
		{name: "other order", change: content("rollouts/2", `{"an":"0rder"}`), says: "digest"},
		{name: "order for another release", change: rename("rollouts/2", "rollouts/1.json"), says: "rollout order"},
		{name: "longer manifest", change: content("releases/2", "{}"), says: "signed for"},
		{name: "empty metadata", change: content("metadata/operator", ""), says: "0 bytes"},
		{name: "nothing signed", change: func(is []item) []item {
			return is[:1]
		}, says: "want metadata/timestamp.json"},
		{name: "other metadata", change: content("metadata/timestamp", "{}"), want: trust.ErrMalformed},
		{name: "root twice", change: func(is []item) []item {
			var i item
			i.set("metadata/roots/2.json", is[0].data)
			return slices.Insert(is, 1, i)
		}, want: trust.ErrUntrusted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			data := bytes.Clone(good)
			if tc.change != nil {
				data = join(tc.change(split(t, data)))
			} else {
				data = tc.raw(data)
			}
			want := tc.want
			if want == nil {
				want = ErrCorrupt
			}
			_, err := openBytes(data, w.first, nil)
			if !errors.Is(err, want) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %v and %q", err, want, tc.says)
			}
		})
	}
}

// edit changes the first entry whose name has a prefix, and seals its header.
func edit(prefix string, change func(*item)) func([]item) []item {
	return func(items []item) []item {
		for n := range items {
			if strings.HasPrefix(items[n].name(), prefix) {
				change(&items[n])
				items[n].seal()
				return items
			}
		}
		panic("no entry " + prefix)
	}
}

func rename(prefix, name string) func([]item) []item {
	return edit(prefix, func(i *item) { i.set(name, i.data) })
}

func content(prefix, data string) func([]item) []item {
	return edit(prefix, func(i *item) { i.set(i.name(), []byte(data)) })
}

func typed(prefix string, flag byte) func([]item) []item {
	return edit(prefix, func(i *item) { i.header[typeflag] = flag })
}

func drop(prefix string) func([]item) []item {
	return func(items []item) []item {
		n := slices.IndexFunc(items, func(i item) bool { return strings.HasPrefix(i.name(), prefix) })
		return slices.Delete(items, n, n+1)
	}
}

// TestOtherTrust is for bundles that are whole, but not for this peer.
func TestOtherTrust(t *testing.T) {
	w := newWorld(t)
	other := newWorld(t)
	if _, err := openBytes(other.bytes(t), w.first, nil); !errors.Is(err, trust.ErrUntrusted) {
		t.Errorf("a bundle of another cluster: %v", err)
	}
	// Their manifest and software in our metadata.
	w.docs.Manifests[2] = other.docs.Manifests[1]
	if err := Write(io.Discard, w.v, w.docs, w.blobs); err == nil {
		t.Error("Write took a manifest that was not signed")
	}
	w = newWorld(t)
	old := w.bytes(t)
	w.release(t, manifest(3, bundle.Sum(w.docs.Manifests[2]), "software three", "past", "future"))
	if _, err := openBytes(old, w.first, w.v); !errors.Is(err, trust.ErrRollback) {
		t.Errorf("an older bundle: %v", err)
	}
}

// TestPartOfHistory opens bundles that lack documents of older releases.
func TestPartOfHistory(t *testing.T) {
	w := newWorld(t)
	delete(w.docs.Manifests, 1)
	delete(w.docs.Orders, 2)
	b, err := openBytes(w.bytes(t), w.first, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b.ManifestBytes(1) != nil || b.Head().Version != 2 {
		t.Errorf("manifest of release 1: %q", b.ManifestBytes(1))
	}
	delete(w.docs.Manifests, 2)
	if err := Write(io.Discard, w.v, w.docs, w.blobs); err == nil {
		t.Error("Write made a bundle without its newest manifest")
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, says string
		change     func(*world)
	}{
		{"missing blob", "is missing", func(w *world) { w.blobs = w.blobs[1:] }},
		{"no blobs", "is missing", func(w *world) { w.blobs = nil }},
		{"surplus blob", "not one that the manifest names", func(w *world) { w.blobs = append(w.blobs, blobs("more")...) }},
		{"wrong length", "not one that the manifest names", func(w *world) { w.blobs[0].Length++ }},
		{"changed blob", "has changed", func(w *world) { w.blobs[0].Content = strings.NewReader("software twO") }},
		{"shrunk blob", "has changed", func(w *world) { w.blobs[0].Content = strings.NewReader("") }},
		{"other order", "rollout order", func(w *world) { w.docs.Orders[1] = w.docs.Orders[2] }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			tc.change(w)
			err := Write(io.Discard, w.v, w.docs, w.blobs)
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
	empty := newFolder(t)
	if err := Write(io.Discard, empty.Current(), Docs{}, nil); err == nil || !strings.Contains(err.Error(), "build one first") {
		t.Errorf("no release: %v", err)
	}
	w := newWorld(t)
	if err := Write(brokenDisk{}, w.v, w.docs, w.blobs); !errors.Is(err, errDisk) {
		t.Errorf("a full disk: %v", err)
	}
}

var errDisk = errors.New("broken disk")

type brokenDisk struct{}

func (brokenDisk) Write([]byte) (int, error)         { return 0, errDisk }
func (brokenDisk) ReadAt([]byte, int64) (int, error) { return 0, errDisk }

// TestBrokenDisk: a disk that cannot be read is not a damaged bundle.
func TestBrokenDisk(t *testing.T) {
	w := newWorld(t)
	_, err := Open(brokenDisk{}, 1<<20, w.first, nil)
	if !errors.Is(err, errDisk) || errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

// TestWrongManifest is for a publisher who signs what does not fit.
func TestWrongManifest(t *testing.T) {
	w := newWorld(t)
	m := manifest(2, bundle.Sum([]byte("elsewhere")), "software two", "past", "future")
	data, err := bundle.MarshalManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []bundle.Version{1, 2} {
		if _, err := parseManifest(w.v, n, data); !errors.Is(err, ErrCorrupt) {
			t.Errorf("as release %d: %v", n, err)
		}
	}
	if _, err := parseManifest(w.v, 2, w.docs.Manifests[2]); err != nil {
		t.Errorf("the good one: %v", err)
	}
}
