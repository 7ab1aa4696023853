package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/store/bundle"
)

// file is one file of a tree under test; a name that ends in / is a folder.
type file struct {
	name string
	mode fs.FileMode
	data string
}

func sample() []file {
	return []file{
		{"kv", 0o755, "a program"},
		{"kv-data/empty/", 0o755, ""},
		{"kv-data/a.txt", 0o644, "text"},
		{"lib/z", 0o600, strings.Repeat("z", 1000)},
		{"lib/" + strings.Repeat("long", 40), 0o444, "a name that needs more than ustar's 100 bytes"},
		{"lib.conf", 0o711, ""},
		{"lib/ünïcode", 0o644, "u"},
	}
}

// plant writes files below a new folder, in the order given.
func plant(t testing.TB, files []file) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		if strings.HasSuffix(f.name, "/") {
			if err := os.MkdirAll(path, f.mode); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f.data), f.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, f.mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func packed(t testing.TB, from, name string) []byte {
	t.Helper()
	var buf bytes.Buffer
	if _, err := Pack(t.Context(), &buf, from, name); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func newRoot(t testing.TB) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	})
	return root
}

func TestPackExtract(t *testing.T) {
	root := newRoot(t)
	// A mask that would take the software's modes away.
	defer umask(0o077)()
	data := packed(t, plant(t, sample()), "")
	if err := Extract(bytes.NewReader(data), root); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"kv": "-rwxr-xr-x a program", "kv-data": "drwxr-xr-x ", "kv-data/empty": "drwxr-xr-x ",
		"kv-data/a.txt": "-rw-r--r-- text", "lib": "drwxr-xr-x ", "lib.conf": "-rwxr-xr-x ",
		"lib/z": "-rw-r--r-- " + strings.Repeat("z", 1000), "lib/ünïcode": "-rw-r--r-- u",
		"lib/" + strings.Repeat("long", 40): "-rw-r--r-- a name that needs more than ustar's 100 bytes",
	}
	err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		got := info.Mode().String() + " "
		if !d.IsDir() {
			data, err := root.ReadFile(name)
			if err != nil {
				return err
			}
			got += string(data)
		}
		if got != want[name] {
			t.Errorf("%s: %q, want %q", name, got, want[name])
		}
		delete(want, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
	// What was extracted packs to the same bytes.
	if again := packed(t, root.Name(), ""); !bytes.Equal(again, data) {
		t.Error("packed again, it differs")
	}
}

// TestPackDependsOnContentOnly packs one tree that was made in other ways.
func TestPackDependsOnContentOnly(t *testing.T) {
	first := packed(t, plant(t, sample()), "")
	files := sample()
	slices.Reverse(files)
	dir := plant(t, files)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, time.Unix(12345, 678), time.Unix(98765, 432))
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(packed(t, dir, ""), first) {
		t.Error("the artifact depends on times or order")
	}
	// Frozen: another tar of the same tree would be another release.
	if got := bundle.Sum(first).Short(); got != "2503ac213f3e" {
		t.Errorf("the artifact has the digest %s now", got)
	}
	// Planted bugs: what must count does.
	for name, change := range map[string]func() error{
		"content": func() error { return os.WriteFile(filepath.Join(dir, "kv"), []byte("a pr0gram"), 0o755) },
		"mode":    func() error { return os.Chmod(filepath.Join(dir, "kv"), 0o644) },
		"name":    func() error { return os.Rename(filepath.Join(dir, "lib.conf"), filepath.Join(dir, "lib.cnf")) },
		"folder":  func() error { return os.Remove(filepath.Join(dir, "kv-data/empty")) },
	} {
		before := packed(t, dir, "")
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(packed(t, dir, ""), before) {
			t.Errorf("%s does not count", name)
		}
	}
}

func TestPackOneFile(t *testing.T) {
	dir := plant(t, []file{{"kv-v2", 0o755, "a program"}, {"other", 0o644, "not packed"}})
	link := filepath.Join(dir, "latest")
	if err := os.Symlink("kv-v2", link); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ from, name, want string }{
		{"kv-v2", "", "kv-v2"}, {"kv-v2", "kv", "kv"}, {"latest", "", "latest"}, {"latest", "kv", "kv"},
	} {
		root := newRoot(t)
		if err := Extract(bytes.NewReader(packed(t, filepath.Join(dir, tc.from), tc.name)), root); err != nil {
			t.Fatal(err)
		}
		entries, err := fs.ReadDir(root.FS(), ".")
		if err != nil || len(entries) != 1 || entries[0].Name() != tc.want {
			t.Errorf("%s as %q: %v, %v", tc.from, tc.name, entries, err)
		}
	}
	for _, name := range []string{"a/b", "..", "/kv", `a\b`} {
		if _, err := Pack(t.Context(), io.Discard, filepath.Join(dir, "kv-v2"), name); !errors.Is(err, ErrUnfit) {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

func TestPackRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, says string
		plant      func(dir string) error
	}{
		{"symbolic link", "symbolic link", func(dir string) error { return os.Symlink("kv", filepath.Join(dir, "link")) }},
		{"link to outside", "symbolic link", func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "link")) }},
		{"link to a folder", "symbolic link", func(dir string) error { return os.Symlink("lib", filepath.Join(dir, "link")) }},
		{"named pipe", "named pipe", func(dir string) error { return mkfifo(filepath.Join(dir, "lib/pipe")) }},
		{"setuid bit", "rights of its own", func(dir string) error { return os.Chmod(filepath.Join(dir, "kv"), fs.ModeSetuid|0o755) }},
		{"backslash", "separates folders", func(dir string) error { return os.WriteFile(filepath.Join(dir, `a\b`), nil, 0o644) }},
		{"newline", "control characters", func(dir string) error { return os.WriteFile(filepath.Join(dir, "a\nb"), nil, 0o644) }},
		{"no UTF-8", "UTF-8", func(dir string) error { return os.WriteFile(filepath.Join(dir, "a\xffb"), nil, 0o644) }},
		{"too deep", "deep", func(dir string) error {
			return os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", MaxPathDepth+1)), 0o755)
		}},
		{"too long", "the most is 512", func(dir string) error {
			return os.MkdirAll(filepath.Join(dir, strings.Repeat(strings.Repeat("n", 100)+"/", 6)), 0o755)
		}},
		{"huge file", "the most is", func(dir string) error { return os.Truncate(filepath.Join(dir, "kv"), MaxFileBytes+1) }},
		{"no files", "holds no file", func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.MkdirAll(filepath.Join(dir, "empty"), 0o755))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := plant(t, sample())
			if err := tc.plant(dir); err != nil {
				t.Skip(err) // a file system that cannot hold it
			}
			_, err := Pack(t.Context(), io.Discard, dir, "")
			if !errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
	dir := plant(t, sample())
	if _, err := Pack(t.Context(), io.Discard, filepath.Join(dir, "none"), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	if _, err := Pack(t.Context(), io.Discard, dir, "kv"); !errors.Is(err, ErrUnfit) {
		t.Errorf("a name for a folder: %v", err)
	}
	if _, err := Pack(t.Context(), io.Discard, os.DevNull, ""); !errors.Is(err, ErrUnfit) {
		t.Errorf("a device: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Pack(ctx, io.Discard, dir, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, err := Pack(t.Context(), brokenDisk{}, dir, ""); !errors.Is(err, errDisk) {
		t.Errorf("a full disk: %v", err)
	}
}

// growing appends to a file when the first byte of the tar is written.
type growing struct {
	path string
	by   int64
}

func (g *growing) Write(p []byte) (int, error) {
	if g.by != 0 {
		info, err := os.Stat(g.path)
		if err != nil {
			return 0, err
		}
		if err := os.Truncate(g.path, info.Size()+g.by); err != nil {
			return 0, err
		}
		g.by = 0
	}
	return len(p), nil
}

func TestPackChangingFile(t *testing.T) {
	for by, says := range map[int64]string{5: "grew", -5: "shrank"} {
		path := filepath.Join(plant(t, sample()), "kv")
		_, err := Pack(t.Context(), &growing{path: path, by: by}, path, "")
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("by %d bytes: %v, want %q", by, err, says)
		}
	}
}

// tarOf writes a tar as an attacker would.
func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 && h.Typeflag != tar.TypeXGlobalHeader {
			h.Mode = 0o644
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(bytes.Repeat([]byte("x"), int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestExtractRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, says string
		headers    []tar.Header
	}{
		{"parent folder", "not a plain path", []tar.Header{{Name: "../kv"}}},
		{"hidden parent", "not a plain path", []tar.Header{{Name: "a/../../kv"}}},
		{"absolute", "not a plain path", []tar.Header{{Name: "/etc/kv"}}},
		{"the folder itself", "not a plain path", []tar.Header{{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}}},
		{"unclean", "not a plain path", []tar.Header{{Name: "a//b"}}},
		{"backslash", "separates", []tar.Header{{Name: `..\kv`}}},
		{"control character", "control", []tar.Header{{Name: "a\x1b[2Jb"}}},
		{"symbolic link", "type", []tar.Header{{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, {Name: "a/passwd"}}},
		{"hard link", "type", []tar.Header{{Name: "a"}, {Name: "b", Typeflag: tar.TypeLink, Linkname: "a"}}},
		{"named pipe", "type", []tar.Header{{Name: "a", Typeflag: tar.TypeFifo}}},
		{"device", "type", []tar.Header{{Name: "a", Typeflag: tar.TypeBlock}}},
		{"setuid", "mode", []tar.Header{{Name: "a", Mode: 0o4755}}},
		{"writable by all", "mode", []tar.Header{{Name: "a", Mode: 0o666}}},
		{"closed folder", "mode", []tar.Header{{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o644}}},
		{"twice", "comes twice", []tar.Header{{Name: "a"}, {Name: "a"}}},
		{"file and folder", "comes twice", []tar.Header{{Name: "a"}, {Name: "a/", Typeflag: tar.TypeDir, Mode: 0o755}}},
		{"out of order", "out of order", []tar.Header{{Name: "b"}, {Name: "a"}}},
		{"no folder", "its folder", []tar.Header{{Name: "a/b"}}},
		{"global header", "type", []tar.Header{{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "x"}}}},
		{"attributes", "unknown attribute", []tar.Header{{Name: "a", Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "all"}}}},
		{"gnu format", "format", []tar.Header{{Name: strings.Repeat("n", 120), Format: tar.FormatGNU}}},
		{"empty", "holds no file", nil},
		{"folders only", "holds no file", []tar.Header{{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o755}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := newRoot(t)
			err := Extract(bytes.NewReader(tarOf(t, tc.headers...)), root)
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
	// A file below a file: the file system refuses, and nothing is followed.
	root := newRoot(t)
	if err := Extract(bytes.NewReader(tarOf(t, tar.Header{Name: "a"}, tar.Header{Name: "a/b"})), root); err == nil {
		t.Error("a file below a file was accepted")
	}
	if err := Extract(bytes.NewReader(tarOf(t, tar.Header{Name: "b"})), root); err == nil || !strings.Contains(err.Error(), "want an empty one") {
		t.Errorf("into a folder that is not empty: %v", err)
	}
	if err := Extract(io.MultiReader(bytes.NewReader(tarOf(t, tar.Header{Name: "b"})[:600]), brokenReader{}), newRoot(t)); !errors.Is(err, errDisk) || errors.Is(err, ErrCorrupt) {
		t.Errorf("a disk that cannot be read: %v", err)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errDisk }

// TestExtractBounds checks bounds that are too far away to be reached.
func TestExtractBounds(t *testing.T) {
	good := tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, Size: 10, Format: tar.FormatUSTAR}
	x := extractor{last: "a", entries: MaxEntries - 1, bytes: MaxTreeBytes - 10}
	if err := x.check("b", &good); err != nil {
		t.Errorf("at the bounds: %v", err)
	}
	for name, change := range map[string]func(*extractor, *tar.Header){
		"entries":    func(x *extractor, _ *tar.Header) { x.entries++ },
		"bytes":      func(x *extractor, _ *tar.Header) { x.bytes++ },
		"file":       func(x *extractor, h *tar.Header) { x.bytes, h.Size = 0, MaxFileBytes+1 },
		"overflow":   func(_ *extractor, h *tar.Header) { h.Size = 1<<63 - 1 },
		"minus":      func(_ *extractor, h *tar.Header) { h.Size = -1 },
		"fat folder": func(_ *extractor, h *tar.Header) { h.Typeflag, h.Mode = tar.TypeDir, 0o755 },
	} {
		x, h := x, good
		change(&x, &h)
		if err := x.check("b", &h); err == nil {
			t.Errorf("beyond the bound of %s", name)
		}
	}
}

func TestExtractCutAtEveryByte(t *testing.T) {
	data := tarOf(t, tar.Header{Name: "a", Size: 700}, tar.Header{Name: "b/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "b/c", Size: 3})
	if err := Extract(bytes.NewReader(data), newRoot(t)); err != nil {
		t.Fatal(err)
	}
	scratch := t.TempDir()
	extract := func(data []byte) error {
		dir, err := os.MkdirTemp(scratch, "")
		if err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		return errors.Join(Extract(bytes.NewReader(data), root), root.Close(), os.RemoveAll(dir))
	}
	for n := 0; n < len(data); n += 13 * step {
		if err := extract(data[:n]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut at byte %d of %d: %v", n, len(data), err)
		}
	}
	for _, n := range []int{len(data) - 1, len(data) - 512, len(data) - 1024, len(data) - 1025} {
		if err := extract(data[:n]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut at byte %d of %d: %v", n, len(data), err)
		}
	}
	// The planted bug: archive/tar alone takes a cut between entries for whole.
	if err := readAll(data[:len(data)-1024]); err != nil {
		t.Errorf("archive/tar refuses a cut between entries now (%v): checkEnd may be simpler", err)
	}
	if err := extract(append(bytes.Clone(data), 0)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte after the end: %v", err)
	}
}

func readAll(data []byte) error {
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		if _, err := tr.Next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, tr); err != nil {
			return err
		}
	}
}
