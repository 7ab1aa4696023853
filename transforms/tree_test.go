//go:build unix

package transforms

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The digest is part of what people compare between machines: it must not
// change from one moult to the next.
func TestDigestVector(t *testing.T) {
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"a": "alpha", "sub/b": "beta"})
	for path, mode := range map[string]os.FileMode{".": 0o700, "a": 0o644, "sub": 0o755, "sub/b": 0o644} {
		if err := os.Chmod(filepath.Join(dir, path), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	d, objects, size, err := DigestTree(dir)
	const want = "sha256:9759b8b7922354cb87fd0c7569e52b4839ddc317fe87183e36e255dd8bbec7ba"
	if d.String() != want || objects != 2 || size != 9 || err != nil {
		t.Errorf("digest %s, %d objects, %d bytes, %v; want %s, 2, 9", d, objects, size, err, want)
	}
}

// Every change of what software can read changes the digest; those, and the
// ones that it could hide by setting times back, change the fingerprint.
func TestChangesAreSeen(t *testing.T) {
	for name, c := range map[string]struct {
		change     func(dir string) error
		sameDigest bool
	}{
		"content, time set back": {change: func(dir string) error {
			path := filepath.Join(dir, "a")
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			if err := os.WriteFile(path, []byte("omega"), 0o644); err != nil {
				return err
			}
			return os.Chtimes(path, info.ModTime(), info.ModTime())
		}},
		"added":    {change: func(dir string) error { return os.WriteFile(filepath.Join(dir, "z"), nil, 0o644) }},
		"removed":  {change: func(dir string) error { return os.Remove(filepath.Join(dir, "sub", "b")) }},
		"renamed":  {change: func(dir string) error { return os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "z")) }},
		"moved":    {change: func(dir string) error { return os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "sub", "a")) }},
		"mode":     {change: func(dir string) error { return os.Chmod(filepath.Join(dir, "a"), 0o600) }},
		"folder":   {change: func(dir string) error { return os.Mkdir(filepath.Join(dir, "e"), 0o755) }},
		"rewrite":  {sameDigest: true, change: func(dir string) error { return os.WriteFile(filepath.Join(dir, "a"), []byte("alpha"), 0o644) }},
		"no write": {sameDigest: true, change: func(string) error { return nil }},
	} {
		dir := t.TempDir()
		writeTree(t, dir, map[string]string{"a": "alpha", "sub/b": "beta"})
		before := digest(t, dir)
		print1, err := fingerprintOf(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.change(dir); err != nil {
			t.Fatal(err)
		}
		if same := digest(t, dir) == before; same != c.sameDigest {
			t.Errorf("%s: same digest: %v", name, same)
		}
		print2, err := fingerprintOf(dir)
		if err != nil {
			t.Fatal(err)
		}
		if same := print1 == print2; same != (name == "no write") {
			t.Errorf("%s: same fingerprint: %v", name, same)
		}
	}
}

func TestRemoveTreeWithoutPermission(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	writeTree(t, dir, oldState)
	for _, p := range []string{"sub", "."} {
		if err := os.Chmod(filepath.Join(dir, p), 0o000); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeTree(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("it is still there")
	}
	if err := removeTree(dir); err != nil {
		t.Errorf("missing: %v", err)
	}
}

func TestLastLines(t *testing.T) {
	if got := lastLines("one\ntwo\nthree", 100); got != "one\ntwo\nthree" {
		t.Errorf("%q", got)
	}
	if got := lastLines("one\ntwo\nthree", 8); got != "… three" {
		t.Errorf("%q", got)
	}
	if got := lastLines(strings.Repeat("x", 20), 8); got != "… xxxxxxxx" {
		t.Errorf("%q", got)
	}
}
