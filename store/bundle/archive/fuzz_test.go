package archive

import (
	"archive/tar"
	"bytes"
	"os"
	"testing"
)

// FuzzOpen looks for bytes that Open accepts and Write would not have written,
// and for panics. The seeds are the frozen bundle and changed ones.
func FuzzOpen(f *testing.F) {
	good, first := frozen(f)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(append(bytes.Clone(good), good...))
	items := split(f, good)
	for n := range items {
		f.Add(join(items[n:]))
		f.Add(join(append(items[:n:n], items[n+1:]...)))
	}
	verify := remembered(first)
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := open(bytes.NewReader(data), int64(len(data)), verify)
		if err != nil {
			if !classified(err) {
				t.Errorf("unclassified error: %v", err)
			}
			return
		}
		var again bytes.Buffer
		docs, blobs := b.Contents()
		if err := Write(&again, b.Trust(), docs, blobs); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Bytes(), data) {
			t.Error("Open accepted what Write does not write")
		}
	})
}

// FuzzExtract looks for bytes that Extract accepts and Pack would not have
// written, and for anything written outside of the folder.
func FuzzExtract(f *testing.F) {
	f.Add(packed(f, plant(f, sample()), ""))
	f.Add(tarOf(f, tar.Header{Name: "a", Size: 3}, tar.Header{Name: "b/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "b/c"}))
	f.Add(tarOf(f, tar.Header{Name: "../a"}))
	f.Add(tarOf(f, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: ".."}, tar.Header{Name: "a/b"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 64<<10 {
			return
		}
		parent := t.TempDir()
		if err := os.Mkdir(parent+"/root", 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(parent + "/root")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = root.Close() }()
		err = Extract(bytes.NewReader(data), root)
		if entries, _ := os.ReadDir(parent); len(entries) != 1 {
			t.Fatalf("something was written outside: %v", entries)
		}
		if err != nil {
			return
		}
		if _, err := Pack(t.Context(), &bytes.Buffer{}, parent+"/root", ""); err != nil {
			t.Errorf("what was extracted cannot be packed: %v", err)
		}
	})
}
