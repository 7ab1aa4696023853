package selfupdate

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/agent/config"
	"moult/simlayer/host/child"
	"moult/store/bundle"
)

// start starts an agent of a data folder whose state is as change has it.
func start(t *testing.T, change func(*document, Build)) (*Folder, Build) {
	t.Helper()
	data := t.TempDir()
	f := openFolder(data)
	b := add(t, f, "confirmed")
	must(t, f.change(func(d *document) { change(d, b) }))
	must(t, f.lock.Unlock())
	f, err := Start(config.Config{Data: data}, slog.New(slog.DiscardHandler))
	must(t, err)
	return f, b
}

// TestStartAsItself: this process would be another program if it became the confirmed build.
func TestStartAsItself(t *testing.T) {
	own, err := digestOf(child.ThisProgram())
	must(t, err)
	confirm := func(d *document, b Build) { d.Confirmed, d.Packaged = &b, own }
	for what, c := range map[string]struct {
		change func(*document, Build)
		failed string
	}{
		"nothing is confirmed": {func(*document, Build) {}, ""},
		"a package was installed since": {func(d *document, b Build) {
			confirm(d, b)
			d.Packaged = bundle.Sum([]byte("the one before"))
		}, ""},
		"it ended too often": {func(d *document, b Build) {
			confirm(d, b)
			d.Starts = MaxStarts
		}, "3 times in a row"},
		"its file has changed": {func(d *document, b Build) {
			confirm(d, b)
			must(t, os.WriteFile(b.Path, []byte("x"), 0o700))
		}, "has changed"},
		"its file is gone": {func(d *document, b Build) {
			confirm(d, b)
			must(t, os.Remove(b.Path))
		}, "no such file"},
		"a trial was interrupted, and its copy is of no use": {func(d *document, b Build) {
			must(t, os.Mkdir(filepath.Join(filepath.Dir(filepath.Dir(b.Path)), "before"), 0o700))
			d.Trial = &trial{Build: b}
		}, "interrupted"},
		"a trial was interrupted before it began": {func(d *document, b Build) {
			d.Trial = &trial{Build: b}
		}, "interrupted"},
	} {
		f, b := start(t, c.change)
		s := f.State()
		if !s.Packaged || s.OnTrial || s.Problem != "" || f.doc.Confirmed != nil || f.doc.Trial != nil {
			t.Errorf("%s: %+v, %+v", what, s, f.doc)
		}
		failed, ok := s.Find(b.Digest)
		if ok != (c.failed != "") || !strings.Contains(failed.Reason, c.failed) {
			t.Errorf("%s: failed: %+v", what, failed)
		}
		if failed.Again != (c.failed == "interrupted") {
			t.Errorf("%s: failed: %+v", what, failed)
		}
		// What was decided is durable.
		must(t, f.lock.Unlock())
		if g := openFolder(filepath.Dir(f.dir)); g.doc.Confirmed != nil || len(g.doc.Failed) != len(s.Failed) {
			t.Errorf("%s: kept: %+v", what, g.doc)
		}
	}
}

// TestStartDamaged: the packaged program runs, and nothing is lost.
func TestStartDamaged(t *testing.T) {
	f, _ := start(t, func(*document, Build) {})
	must(t, f.lock.Unlock())
	must(t, os.WriteFile(f.statePath(), []byte("garbage"), 0o600))
	g, err := Start(config.Config{Data: filepath.Dir(f.dir)}, slog.New(slog.DiscardHandler))
	must(t, err)
	if s := g.State(); s.Problem == "" || !s.Packaged {
		t.Errorf("got %+v", s)
	}
}

// TestStartBeside: a second agent of the data folder decides nothing, least of all about the
// trial of the first.
func TestStartBeside(t *testing.T) {
	f, b := start(t, func(*document, Build) {})
	must(t, f.change(func(d *document) { d.Trial = &trial{Build: b} }))
	g, err := Start(config.Config{Data: filepath.Dir(f.dir)}, slog.New(slog.DiscardHandler))
	must(t, err)
	if s := g.State(); !strings.Contains(s.Problem, "another agent") || openFolder(filepath.Dir(f.dir)).doc.Trial == nil {
		t.Errorf("got %+v", s)
	}
	must(t, os.Mkdir(f.before(), 0o700))
	if _, err := g.Begin(b, time.Second); err == nil {
		t.Error("the second one began a trial")
	}
	if _, err := f.Begin(b, time.Second); err == nil {
		t.Error("a trial began within another")
	}
	if _, err := os.Stat(f.before()); err != nil {
		t.Errorf("the copy of the trial under way: %v", err)
	}
	// What is left of a trial that is over is no copy of the next one's.
	must(t, f.Withdraw())
	if _, err := f.Begin(b, time.Second); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(f.before()); err == nil {
		t.Error("the copy of the trial before is there")
	}
}

func TestUp(t *testing.T) {
	f, b := start(t, func(*document, Build) {})
	must(t, f.change(func(d *document) { d.Confirmed, d.Starts = &b, 2 }))
	if f.Up(); f.doc.Starts != 2 {
		t.Error("the packaged program speaks for the confirmed build")
	}
	f.role = role{kind: confirmed, digest: b.Digest}
	if f.Up(); f.doc.Starts != 0 {
		t.Error("it is not noted that it is up")
	}
}

func TestRole(t *testing.T) {
	for _, r := range []role{{}, {kind: onTrial, digest: bundle.Sum(nil), packaged: "/a path/moult"}, {kind: confirmed, digest: bundle.Sum(nil), packaged: "/m"}} {
		if got := roleOf(r.String()); got != r {
			t.Errorf("%+v became %+v", r, got)
		}
	}
	for _, bad := range []string{"", "confirmed", "confirmed x /m", "other sha256:00 /m"} {
		if got := roleOf(bad); got != (role{}) {
			t.Errorf("%q became %+v", bad, got)
		}
	}
}
