package selfupdate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"moult/store/bundle"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openFolder(data string) *Folder { return Open(data, slog.New(slog.DiscardHandler)) }

// program writes a program for this machine whose digest no other has.
func program(t testing.TB, mark string) string {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	data, err := os.ReadFile(self)
	must(t, err)
	path := filepath.Join(t.TempDir(), "program")
	must(t, os.WriteFile(path, append(data, mark...), 0o755))
	return path
}

func add(t testing.TB, f *Folder, mark string) Build {
	t.Helper()
	b, err := f.Add(t.Context(), program(t, mark), 3)
	must(t, err)
	return b
}

func TestAdd(t *testing.T) {
	data := t.TempDir()
	f := openFolder(data)
	path := program(t, "a")
	b, err := f.Add(t.Context(), path, 3)
	must(t, err)
	content, err := os.ReadFile(path)
	must(t, err)
	if b.Digest != bundle.Sum(content) || b.Release != 3 || b.Path != filepath.Join(data, FolderName, b.Digest.Hex(), Program) {
		t.Errorf("got %+v", b)
	}
	if got, err := os.ReadFile(b.Path); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the copy differs: %v", err)
	}
	if fi, err := os.Stat(b.Path); err != nil || fi.Mode() != 0o755 {
		t.Errorf("another user cannot begin programs by it: %v, %v", fi, err)
	}
	// What the disk has changed is copied again.
	must(t, os.WriteFile(b.Path, []byte("x"), 0o755))
	if _, err := f.Begin(b, 0); err == nil {
		t.Error("a damaged build began a trial")
	}
	again, err := f.Add(t.Context(), path, 3)
	if must(t, err); again != b || verify(b.Path, b.Digest) != nil {
		t.Errorf("got %+v", again)
	}
	entries, err := os.ReadDir(f.dir)
	if must(t, err); len(entries) != 2 { // with the lock
		t.Errorf("left over: %v", entries)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Add(ctx, program(t, "b"), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

func TestAddRefuses(t *testing.T) {
	f := openFolder(t.TempDir())
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\nexit 0\n"), 0o755))
	files := map[string]string{"a folder": dir, "a script": script}
	if runtime.GOOS == "linux" && runtime.GOARCH == "amd64" {
		other := program(t, "")
		data, err := os.ReadFile(other)
		must(t, err)
		data[18] = 183 // e_machine: EM_AARCH64
		must(t, os.WriteFile(other, data, 0o755))
		files["another platform's"] = other
	}
	for what, path := range files {
		if _, err := f.Add(t.Context(), path, 0); !errors.Is(err, ErrUnusable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := f.Add(t.Context(), filepath.Join(dir, "none"), 0); !errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrUnusable) {
		t.Errorf("no file: %v", err)
	}
}

// TestState: what is written is read, and what is not ours is neither gone by nor lost.
func TestState(t *testing.T) {
	data := t.TempDir()
	f := openFolder(data)
	b := add(t, f, "a")
	sw, err := f.Begin(b, time.Second)
	must(t, err)
	if sw.Build != b || sw.Deadline != time.Second {
		t.Errorf("got %+v", sw)
	}
	for i := range 2 * maxFailed {
		must(t, f.change(func(d *document) {
			d.fail(Failure{Build: Build{Digest: bundle.Sum(fmt.Append(nil, i%(maxFailed+3)))}, Reason: strings.Repeat("r", 2*maxReason), At: time.Now()})
		}))
	}
	g := openFolder(data)
	if s := g.State(); len(s.Failed) != maxFailed || s.Problem != "" || !s.Packaged {
		t.Errorf("got %+v", s)
	}
	if g.doc.Trial.Digest != b.Digest || g.doc.Trial.Release != 3 {
		t.Errorf("got %+v", g.doc.Trial)
	}
	good, err := os.ReadFile(f.statePath())
	must(t, err)
	newer := bytes.Replace(bytes.Clone(good), []byte(`"format":1`), []byte(`"format":2`), 1)
	body := good[bytes.Index(good, []byte(`"state":`))+len(`"state":`) : bytes.LastIndex(good, []byte(`,"sum"`))]
	newer = bytes.Replace(newer, []byte(stateSum(1, body).String()), []byte(stateSum(2, body).String()), 1)
	for what, bad := range map[string][]byte{
		"flipped": bytes.Replace(bytes.Clone(good), []byte(`rrr`), []byte(`rrs`), 1), "cut": good[:len(good)/2], "empty": {},
		"newer": newer, "too long": bytes.Repeat([]byte(" "), maxState+1),
	} {
		must(t, os.WriteFile(f.statePath(), bad, 0o600))
		g := openFolder(data)
		s := g.State()
		if s.Problem == "" || !s.Packaged || len(s.Failed) != 0 {
			t.Errorf("%s: got %+v", what, s)
		}
		if what == "newer" && !strings.Contains(s.Problem, "format 2") {
			t.Errorf("a newer one: %s", s.Problem)
		}
		if _, err := g.Begin(b, 0); err == nil {
			t.Errorf("%s: a trial began over it", what)
		}
		if got, err := os.ReadFile(f.statePath()); err != nil || !bytes.Equal(got, bad) {
			t.Errorf("%s: it was replaced: %v", what, err)
		}
	}
}

// TestFinal: a build whose trials are interrupted is tried again, and not for ever: it may be
// what interrupts them.
func TestFinal(t *testing.T) {
	f := openFolder(t.TempDir())
	b := add(t, f, "a")
	for i := range maxInterrupted {
		if failed, ok := f.State().Find(b.Digest); ok != (i > 0) || ok && failed.Final() {
			t.Errorf("after %d interrupted trials: %+v", i, failed)
		}
		must(t, f.change(func(d *document) { d.fail(Failure{Build: b, Reason: "interrupted", Again: true, At: time.Now()}) }))
	}
	if failed, _ := f.State().Find(b.Digest); !failed.Final() {
		t.Errorf("it is tried for ever: %+v", failed)
	}
	other := add(t, f, "b")
	must(t, f.Reject(other, "it crashed"))
	if failed, _ := f.State().Find(other.Digest); !failed.Final() {
		t.Errorf("what was found wrong is tried again: %+v", failed)
	}
}

func TestSweep(t *testing.T) {
	data := t.TempDir()
	f := openFolder(data)
	var all []Build
	for i := range keptTries + 3 {
		all = append(all, add(t, f, fmt.Sprint(i)))
		at := time.Now().Add(time.Duration(i) * time.Hour)
		must(t, os.Chtimes(filepath.Dir(all[i].Path), at, at))
		if i == 0 {
			must(t, f.change(func(d *document) { d.Confirmed = &all[0] }))
		}
	}
	f.sweep()
	for i, b := range all {
		_, err := os.Stat(b.Path)
		if want := i == 0 || i >= len(all)-keptTries; want != (err == nil) {
			t.Errorf("build %d: %v", i, err)
		}
	}
}

func FuzzState(f *testing.F) {
	d := document{Packaged: bundle.Sum(nil), Confirmed: &Build{Release: 3, Digest: bundle.Sum(nil)}, Starts: 1, Trial: &trial{Deadline: 5}}
	d.fail(Failure{Reason: "r"})
	b, err := d.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":1,"state":{},"sum":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decode(b)
		if err != nil {
			return
		}
		again, err := d.encode()
		must(t, err)
		if _, err := decode(again); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
	})
}
