package wasm

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func openKV(t *testing.T, dir string) *FileKV {
	t.Helper()
	kv, err := OpenFileKV(dir)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func contents(t *testing.T, kv *FileKV) map[string]string {
	t.Helper()
	keys, err := kv.List("", "", MaxStateKeys)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, key := range keys {
		v, ok, err := kv.Get(key)
		if err != nil || !ok {
			t.Fatalf("%q is listed, but is not there: %v", key, err)
		}
		all[key] = string(v)
	}
	return all
}

// TestFileKV compares with a map, over many changes and openings, and reads the
// files as a transform does.
func TestFileKV(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	kv, want := openKV(t, dir), map[string]string{}
	rng := rand.New(rand.NewPCG(1, 2))
	keys := []string{"a", "b/c", "..", ".", "%41", "ä", "with space", "a.tmp-1", "A", "_", strings.Repeat("x", MaxStateName)}
	for i := range 120 {
		var ops []Op
		for range 1 + rng.IntN(3) {
			key := keys[rng.IntN(len(keys))]
			if rng.IntN(3) == 0 {
				ops = append(ops, Op{Kind: Delete, Key: key})
				delete(want, key)
			} else {
				value := fmt.Sprint("value ", i)
				ops = append(ops, Op{Set, key, []byte(value)})
				want[key] = value
			}
		}
		if err := kv.Apply(ops); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			kv = openKV(t, dir)
		}
		if got := contents(t, kv); !maps.Equal(got, want) {
			t.Fatalf("step %d: got %v, want %v", i, got, want)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(want) {
		t.Fatalf("%d files for %d keys: %v", len(entries), len(want), err)
	}
	for _, e := range entries {
		key, err := KeyOf(e.Name())
		data, readErr := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil || readErr != nil || want[key] != string(data) {
			t.Errorf("%s: %q, want %q: %v %v", e.Name(), data, want[key], err, readErr)
		}
	}
}

func TestFileKVConditions(t *testing.T) {
	kv := openKV(t, t.TempDir())
	for _, c := range []struct {
		ops  []Op
		want error
	}{
		{[]Op{{IfAbsent, "a", nil}, {Set, "a", []byte("1")}, {Set, "b", []byte("2")}}, nil},
		{[]Op{{IfAbsent, "a", nil}, {Set, "c", []byte("1")}}, ErrConflict},
		{[]Op{{IfEqual, "a", []byte("2")}, {Set, "c", []byte("1")}}, ErrConflict},
		{[]Op{{IfEqual, "c", nil}}, ErrConflict},
		{[]Op{{Set, "c", []byte("1")}, {IfEqual, "a", []byte("1")}}, nil},
		{[]Op{{Set, "d", make([]byte, MaxStateValue+1)}}, ErrFull},
		{[]Op{{Set, "e", []byte("1")}, {Set, "", nil}}, ErrKey},
		{[]Op{{Set, "e", []byte("1")}, {Set, "f\x00", nil}}, ErrKey},
		{[]Op{{Set, "e\xff", nil}}, ErrKey},
		{[]Op{{Set, strings.Repeat("/", MaxStateName/3+1), nil}}, ErrKey},
		{slices.Repeat([]Op{{Set, "e", nil}}, MaxStateOps+1), ErrFull},
	} {
		if err := kv.Apply(c.ops); !errors.Is(err, c.want) {
			t.Errorf("%.80v: got %v, want %v", c.ops, err, c.want)
		}
	}
	if got := contents(t, kv); !maps.Equal(got, map[string]string{"a": "1", "b": "2", "c": "1"}) {
		t.Errorf("got %v", got)
	}
	for i := range MaxStateBytes / MaxStateValue {
		err := kv.Apply([]Op{{Set, fmt.Sprint("big", i), make([]byte, MaxStateValue-8)}})
		if full := i == MaxStateBytes/MaxStateValue; full != errors.Is(err, ErrFull) {
			t.Fatalf("value %d: %v", i, err)
		}
	}
	if err := kv.Apply([]Op{{Set, "more", make([]byte, 100)}}); !errors.Is(err, ErrFull) {
		t.Errorf("more than all: %v", err)
	}
	if err := kv.Apply([]Op{{Set, "more", make([]byte, 100)}, {Delete, "big0", nil}}); err != nil {
		t.Errorf("a change that makes room: %v", err)
	}
}

func TestFileKVList(t *testing.T) {
	kv := openKV(t, t.TempDir())
	for _, key := range []string{"a", "b", "b/1", "b/2", "b/3", "c"} {
		if err := kv.Apply([]Op{{Set, key, nil}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		prefix, after string
		limit         int
		want          string
	}{
		{"", "", 100, "a b b/1 b/2 b/3 c"}, {"", "", 2, "a b"}, {"", "b", 2, "b/1 b/2"},
		{"b/", "", 100, "b/1 b/2 b/3"}, {"b/", "b/1", 1, "b/2"}, {"b/", "b/3", 1, ""}, {"b/", "c", 1, ""},
		{"b", "", 100, "b b/1 b/2 b/3"}, {"b/", "a", 100, "b/1 b/2 b/3"}, {"d", "", 1, ""},
	} {
		keys, err := kv.List(c.prefix, c.after, c.limit)
		if got := strings.Join(keys, " "); err != nil || got != c.want {
			t.Errorf("List(%q, %q, %d) = %q, %v; want %q", c.prefix, c.after, c.limit, got, err, c.want)
		}
	}
}

// TestFileKVCrash stops a batch after each of its steps, and opens the folder: all
// of the batch is there, or nothing.
func TestFileKVCrash(t *testing.T) {
	before := map[string]string{"a": "1", "b": "2"}
	after := map[string]string{"a": "3", "c": "4", "d": "5"}
	batch := []Op{{Set, "a", []byte("3")}, {Delete, "b", nil}, {Set, "c", []byte("4")}, {Set, "d", []byte("5")}}
	for step := -1; step <= len(batch)+1; step++ {
		t.Run(fmt.Sprint("step ", step), func(t *testing.T) {
			dir := t.TempDir()
			kv := openKV(t, dir)
			if err := kv.Apply([]Op{{Set, "a", []byte("1")}, {Set, "b", []byte("2")}}); err != nil {
				t.Fatal(err)
			}
			want := crash(t, kv, batch, step, before, after)
			for range 2 {
				if got := contents(t, openKV(t, dir)); !maps.Equal(got, want) {
					t.Fatalf("got %v, want %v", got, want)
				}
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != len(want) {
				t.Errorf("%v is left: %v", entries, err)
			}
		})
	}
}

// crash leaves kv's folder as a crash after step steps of a batch does.
func crash(t *testing.T, kv *FileKV, batch []Op, step int, before, after map[string]string) map[string]string {
	t.Helper()
	promise := filepath.Join(kv.dir, batchFile)
	if step < 0 { // while the promise is written
		if err := os.WriteFile(filepath.Join(kv.dir, "."+batchFile+".tmp-1"), encodeBatch(batch)[:20], 0o600); err != nil {
			t.Fatal(err)
		}
		return before
	}
	if err := os.WriteFile(promise, encodeBatch(batch), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, op := range batch[:min(step, len(batch))] {
		if err := kv.writeOne(op); err != nil {
			t.Fatal(err)
		}
	}
	if step > len(batch) {
		if err := kv.forget(); err != nil {
			t.Fatal(err)
		}
	}
	return after
}

// TestFileKVCrashCatches shows that the test above sees a batch that is half done.
func TestFileKVCrashCatches(t *testing.T) {
	dir := t.TempDir()
	kv := openKV(t, dir)
	if err := kv.writeOne(Op{Set, "a", []byte("3")}); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, openKV(t, dir)); len(got) != 1 {
		t.Errorf("a lone write of a batch is not seen: %v", got)
	}
}

func TestFileKVDamage(t *testing.T) {
	for name, data := range map[string]string{batchFile: "not a batch", "a%2e": "", "%": "", "a.b": ""} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenFileKV(dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, want an error that names it", name, err)
		}
	}
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFileKV(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a link: %v", err)
	}
}

// TestFileKVOwes lets the files of a batch fail after its promise: it counts, and
// is done before the next change.
func TestFileKVOwes(t *testing.T) {
	dir := t.TempDir()
	kv := openKV(t, dir)
	blocker := filepath.Join(dir, "b")
	if err := os.MkdirAll(filepath.Join(blocker, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := kv.Apply([]Op{{Set, "a", []byte("1")}, {Set, "b", []byte("2")}}); err != nil {
		t.Fatal(err)
	}
	if err := kv.Apply([]Op{{Set, "c", []byte("3")}}); err == nil {
		t.Fatal("a change overtook one that is owed")
	}
	if err := os.RemoveAll(blocker); err != nil {
		t.Fatal(err)
	}
	if err := kv.Apply([]Op{{Set, "c", []byte("3")}}); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, openKV(t, dir)); !maps.Equal(got, map[string]string{"a": "1", "b": "2", "c": "3"}) {
		t.Errorf("got %v", got)
	}
}

func FuzzFileName(f *testing.F) {
	for _, key := range []string{"a", "../b", "ä/%", ".", "\x7f", "%41"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if CheckKey(key) != nil {
			return
		}
		name := FileName(key)
		if name == "" || name[0] == '.' || strings.ContainsAny(name, "/\x00") || !utf8.ValidString(name) {
			t.Fatalf("the file of %q is called %q", key, name)
		}
		if back, err := KeyOf(name); err != nil || back != key {
			t.Fatalf("%q became %q: %v", key, back, err)
		}
	})
}

func FuzzBatch(f *testing.F) {
	f.Add(encodeBatch([]Op{{Set, "a", []byte("b")}, {Delete, "c", nil}})[32:])
	f.Fuzz(func(t *testing.T, data []byte) {
		ops, err := decodeOps(data)
		if err != nil {
			return
		}
		if got := encodeBatch(ops)[32:]; string(got) != string(data) {
			t.Fatalf("% x became % x", data, got)
		}
	})
}
