package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// childEnv makes the test binary one of the children below, on the data folder
// that childDir names.
const (
	childEnv = "MOULT_STORE_TEST_CHILD"
	childDir = "MOULT_STORE_TEST_DIR"
)

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		goleak.VerifyTestMain(m,
			// Badger leaves these behind when it refuses to open.
			goleak.IgnoreAnyFunction("github.com/dgraph-io/badger/v4.(*DB).monitorCache"),
			goleak.IgnoreAnyFunction("github.com/dgraph-io/badger/v4.(*DB).updateSize"),
			goleak.IgnoreAnyFunction("github.com/dgraph-io/badger/v4/y.(*WaterMark).process"),
			goleak.IgnoreAnyFunction("github.com/dgraph-io/ristretto/v2/z.(*AllocatorPool).freeupAllocators"))
	case "append":
		childAppend(os.Getenv(childDir))
	case "fatal":
		childFatal(os.Getenv(childDir))
	case "resident":
		childResident(os.Getenv(childDir))
	}
}

func mustOpen(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func mustClose(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustAppend(t testing.TB, s *Store, kind, data string) Entry {
	t.Helper()
	e, err := s.Append(kind, []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// content is all that a store holds, as text, to compare.
func content(s *Store) (string, error) {
	var b bytes.Buffer
	err := s.Journal(0, func(e Entry) error {
		fmt.Fprintf(&b, "entry %d %s %.200q\n", e.Seq, e.Kind, e.Data)
		return nil
	})
	if err != nil {
		return "", err
	}
	err = s.Each("docs", func(key string, v []byte) error {
		fmt.Fprintf(&b, "doc %s %.200q\n", key, v)
		return nil
	})
	return b.String(), err
}

func mustContent(t testing.TB, s *Store) string {
	t.Helper()
	c, err := content(s)
	must(t, err)
	return c
}

// copyTree copies a data folder; holes stay holes.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	must(t, filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if rel == "ballast" {
			return nil // Open makes it again
		}
		target := filepath.Join(to, rel)
		if e.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(target, bytes.TrimRight(b, "\x00"), 0o600); err != nil {
			return err
		}
		return os.Truncate(target, int64(len(b)))
	}))
}

func flip(t testing.TB, path string, at int64, bit byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	b[0] ^= bit
	_, err = f.WriteAt(b[:], at)
	must(t, errors.Join(err, f.Close()))
}
