package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/trust"
	"moult/testdata/kit/bundles"
)

var day = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newFolder(t testing.TB) *trust.Folder {
	t.Helper()
	return bundles.Folder(t, filepath.Join(t.TempDir(), "trust"), day)
}

// source writes the sources of release n: a folder for linux/amd64, a single
// file for linux/arm64, and rules.
func source(t testing.TB, n int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write(t, dir, "build/amd64/kv", program(n), 0o755)
	write(t, dir, "build/amd64/lib/data.txt", []byte("data"), 0o644)
	write(t, dir, "build/kv-arm64", program(n+100), 0o755)
	write(t, dir, "past.hcl", []byte("# past\n"), 0o644)
	write(t, dir, "future.hcl", []byte("# future\n"), 0o644)
	spec := fmt.Sprintf(`release {
  version = %d
  class "kv" {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "build/amd64"
    }
    artifact {
      os   = "linux"
      arch = "arm64"
      path = "build/kv-arm64"
      name = "kv"
    }
    command = ["./kv", "--state", "${state}"]
    service "api" {
      protocol = "http"
    }
    health {
      notify = true
    }
    # upgrade
  }
}
`, n)
	if n > 1 {
		spec = strings.Replace(spec, "# upgrade", fmt.Sprintf(`
    from = %d
    past {
      rules = "past.hcl"
    }
    future {
      rules = "future.hcl"
    }`, n-1), 1)
	}
	write(t, dir, "upgrade.hcl", []byte(spec), 0o644)
	return dir
}

// program returns 1.5 MB that do not compress, with a part of their own for n.
func program(n int) []byte {
	data := make([]byte, 3<<19)
	r := rand.NewChaCha8([32]byte{})
	if _, err := r.Read(data); err != nil {
		panic(err)
	}
	copy(data[1<<19:], fmt.Sprintf("program %d", n))
	return data
}

func write(t testing.TB, dir, name string, data []byte, mode fs.FileMode) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB, dir string) *Spec {
	t.Helper()
	spec, err := Load(filepath.Join(dir, "upgrade.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// mustBuild builds the spec in dir and opens the bundle as a peer would.
func mustBuild(t testing.TB, dir string, f *trust.Folder) (*Result, *archive.Bundle) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "kv.moult")
	result, err := Build(t.Context(), load(t, dir), f, out, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if names, err := os.ReadDir(filepath.Dir(out)); err != nil || len(names) != 1 {
		t.Errorf("beside the bundle: %v, %v", names, err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	b, err := archive.Open(bytes.NewReader(data), int64(len(data)), f.FirstRoot(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if result.Path != out || result.Bytes != int64(len(data)) || result.Blobs != len(b.Blobs()) || result.Version != b.Head().Version ||
		result.Manifest != bundle.Sum(b.ManifestBytes(result.Version)) {
		t.Errorf("result %+v does not fit the bundle", result)
	}
	return result, b
}

func TestBuild(t *testing.T) {
	f := newFolder(t)
	first, _ := mustBuild(t, source(t, 1), f)
	order := []byte(`{"an":"order"}`)
	if _, err := f.AddOrder(1, 1, order); err != nil {
		t.Fatal(err)
	}
	second, b := mustBuild(t, source(t, 2), f)
	m := b.Head()
	kv := m.Classes["kv"]
	if m.Previous != first.Manifest || kv.From != 1 || len(b.Manifests()) != 2 {
		t.Errorf("release 2 continues %s from %d, with %d manifests", m.Previous, kv.From, len(b.Manifests()))
	}
	if got, ok := b.Order(1); !ok || !bytes.Equal(got, order) {
		t.Error("the rollout order in force is missing")
	}
	if rules, ok := b.Blob(kv.Past.Rules.Digest); !ok || rules.Size() != 7 {
		t.Error("no rules of the past")
	}
	if len(second.Artifacts) != 2 || second.Artifacts[0].Files != 2 || second.Artifacts[0].Folders != 1 {
		t.Errorf("artifacts %+v", second.Artifacts)
	}
	for _, a := range kv.Artifacts {
		var data []byte
		for _, c := range a.Chunks {
			r, _ := b.Blob(c.Digest)
			chunk, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			data = append(data, chunk...)
		}
		if bundle.Sum(data) != a.Digest || int64(len(data)) != a.Length {
			t.Fatalf("the chunks for %s are not the artifact", a.Platform)
		}
		root, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(archive.Extract(bytes.NewReader(data), root), root.Close()); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(root.Name(), "kv"))
		if err != nil || info.Mode() != 0o755 {
			t.Errorf("the program for %s: %v, %v", a.Platform, info, err)
		}
	}
}

// Each stage of a build tells how far it is, to its end.
func TestBuildProgress(t *testing.T) {
	dir := source(t, 1)
	var stages []string
	last, whole := map[string]int64{}, map[string]int64{}
	_, err := Build(t.Context(), load(t, dir), newFolder(t), filepath.Join(t.TempDir(), "kv.moult"), Options{
		Progress: func(stage string, done, total int64) {
			if len(stages) == 0 || stages[len(stages)-1] != stage {
				stages = append(stages, stage)
			}
			if done < last[stage] {
				t.Errorf("%s: %d bytes after %d", stage, done, last[stage])
			}
			last[stage], whole[stage] = done, total
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"packing amd64", "cutting amd64", "packing kv-arm64", "cutting kv-arm64", "writing", "checking"}; !slices.Equal(stages, want) {
		t.Errorf("stages %q, want %q", stages, want)
	}
	for stage, total := range whole {
		if total < 1<<20 || last[stage] < total {
			t.Errorf("%s ended at %d of %d bytes", stage, last[stage], total)
		}
	}
}

// TestBuildObjects: a release with objects of the newer kinds is of the newer
// format, and one without stays readable by every moult.
func TestBuildObjects(t *testing.T) {
	f := newFolder(t)
	_, first := mustBuild(t, source(t, 1), f)
	if got := first.Head().Format; got != bundle.FormatVersion {
		t.Errorf("a plain release has format %d", got)
	}
	dir := source(t, 2)
	module := []byte(wasmModule + "and more")
	write(t, dir, "past.wasm", module, 0o644)
	edit(t, dir, `rules = "past.hcl"`, "wasm = \"past.wasm\"\n retire_after = \"1h\"")
	edit(t, dir, `rules = "future.hcl"`, "exec = [\"./kv\", \"future\"]\n observe = true")
	_, b := mustBuild(t, dir, f)
	kv := b.Head().Classes["kv"]
	if b.Head().Format != bundle.FormatObjects || kv.Past.Kind != bundle.SimulateWasm || kv.Past.Retire() != bundle.Duration(time.Hour) ||
		kv.Future.Kind != bundle.SimulateExec || !kv.Future.Observe || kv.Future.Retire() != bundle.DefaultRetireAfter {
		t.Errorf("format %d, past %+v, future %+v", b.Head().Format, kv.Past, kv.Future)
	}
	c, ok := kv.Past.Blob()
	r, inBundle := b.Blob(c.Digest)
	if !ok || !inBundle {
		t.Fatalf("no module in the bundle: %v", c)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, module) {
		t.Errorf("the module is %q, %v", got, err)
	}
	if c, ok := kv.Future.Blob(); ok {
		t.Errorf("an exec object has the blob %v", c)
	}
}

// TestReproducible: what does not count leaves the manifest as it is, and what
// counts does not.
func TestReproducible(t *testing.T) {
	want, _ := mustBuild(t, source(t, 1), newFolder(t))
	digest := func(change func(dir string)) bundle.Digest {
		dir := source(t, 1)
		change(dir)
		// Another folder, other keys, other times: none of it is content.
		got, _ := mustBuild(t, dir, newFolder(t))
		return got.Manifest
	}
	for name, change := range map[string]func(dir string){
		"nothing": func(string) {},
		"times": func(dir string) {
			if err := os.Chtimes(filepath.Join(dir, "build/amd64/kv"), day, day); err != nil {
				t.Fatal(err)
			}
		},
		"order": func(dir string) {
			write(t, dir, "build/amd64/a", nil, 0o644)
			if err := errors.Join(os.Remove(filepath.Join(dir, "build/amd64/a")),
				os.Rename(filepath.Join(dir, "build/amd64/kv"), filepath.Join(dir, "build/amd64/x")),
				os.Rename(filepath.Join(dir, "build/amd64/x"), filepath.Join(dir, "build/amd64/kv"))); err != nil {
				t.Fatal(err)
			}
		},
		"comments": func(dir string) {
			old, err := os.ReadFile(filepath.Join(dir, "upgrade.hcl"))
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, "upgrade.hcl", append([]byte("# A comment.\n"), old...), 0o644)
		},
	} {
		if got := digest(change); got != want.Manifest {
			t.Errorf("%s: manifest %s, want %s", name, got.Short(), want.Manifest.Short())
		}
	}
	for name, change := range map[string]func(dir string){
		"content": func(dir string) { write(t, dir, "build/amd64/lib/data.txt", []byte("Data"), 0o644) },
		"file":    func(dir string) { write(t, dir, "build/amd64/more", nil, 0o644) },
		"mode": func(dir string) {
			if err := os.Chmod(filepath.Join(dir, "build/amd64/lib/data.txt"), 0o755); err != nil {
				t.Fatal(err)
			}
		},
	} {
		if digest(change) == want.Manifest {
			t.Errorf("%s does not count", name)
		}
	}
}

// TestAgain builds a release twice: unchanged it comes out the same, byte for
// byte, and changed it is refused, for a number has one content for ever.
func TestAgain(t *testing.T) {
	f := newFolder(t)
	dir := source(t, 1)
	first, _ := mustBuild(t, dir, f)
	data, err := os.ReadFile(first.Path)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := mustBuild(t, dir, f)
	if other, err := os.ReadFile(again.Path); err != nil || !bytes.Equal(other, data) {
		t.Errorf("the same release makes another bundle (%v)", err)
	}
	write(t, dir, "build/amd64/lib/data.txt", []byte("other"), 0o644)
	if _, err := Build(t.Context(), load(t, dir), f, again.Path, Options{}); !errors.Is(err, trust.ErrConflict) {
		t.Errorf("the same number with other content: %v", err)
	}
	if other, err := os.ReadFile(again.Path); err != nil || !bytes.Equal(other, data) {
		t.Errorf("the refused build touched the old bundle (%v)", err)
	}
}

// TestReuse: two versions share all chunks but those that changed.
func TestReuse(t *testing.T) {
	f := newFolder(t)
	_, one := mustBuild(t, source(t, 1), f)
	_, two := mustBuild(t, source(t, 2), f)
	shared, fresh := int64(0), int64(0)
	for _, c := range two.Blobs() {
		if _, ok := one.Blob(c.Digest); ok {
			shared += c.Length
		} else {
			fresh += c.Length
		}
		if c.Length > maxChunkBytes {
			t.Errorf("a chunk of %d bytes", c.Length)
		}
	}
	// A few bytes changed in each program, and nothing around them.
	if shared < 3*fresh/2 {
		t.Errorf("%d bytes shared, %d fresh", shared, fresh)
	}
	// Frozen: other cuts would make peers fetch all of the next release.
	chunks, err := cut(t.Context(), bytes.NewReader(program(1)))
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, c := range chunks {
		all = append(all, c.Digest[:]...)
	}
	if got := fmt.Sprintf("%d %s", len(chunks), bundle.Sum(all).Short()); got != "5 641b8b54a3a8" {
		t.Errorf("the cuts have changed: %s", got)
	}
}

func TestCut(t *testing.T) {
	for _, n := range []int{0, 1, minChunkBytes, minChunkBytes + 1, normalChunkBytes, maxChunkBytes, maxChunkBytes + 1} {
		chunks, err := cut(t.Context(), bytes.NewReader(make([]byte, n)))
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, c := range chunks {
			sum += int(c.Length)
		}
		if sum != n {
			t.Errorf("%d bytes cut into %d", n, sum)
		}
	}
	broken := errors.New("broken disk")
	if _, err := cut(t.Context(), io.MultiReader(bytes.NewReader(make([]byte, 5<<20)), failing{broken})); !errors.Is(err, broken) {
		t.Errorf("a disk that cannot be read: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestBuildRefuses changes the sources of a good release. Each refusal says
// what to do, signs nothing, and leaves nothing behind.
func TestBuildRefuses(t *testing.T) {
	f := newFolder(t)
	mustBuild(t, source(t, 1), f)
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, dir string)
	}{
		{"missing-artifacts", func(t *testing.T, dir string) { remove(t, dir, "build") }},
		{"missing-program", func(t *testing.T, dir string) { remove(t, dir, "build/amd64/kv") }},
		{"not-executable", func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "build/amd64/kv"), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{"program-is-a-folder", func(t *testing.T, dir string) {
			remove(t, dir, "build/amd64/kv")
			write(t, dir, "build/amd64/kv/kv", nil, 0o755)
		}},
		{"other-name", func(t *testing.T, dir string) { edit(t, dir, `      name = "kv"`, "") }},
		{"name-for-folder", func(t *testing.T, dir string) {
			edit(t, dir, `path = "build/amd64"`, "path = \"build/amd64\"\n      name = \"kv\"")
		}},
		{"program-outside", func(t *testing.T, dir string) { edit(t, dir, `["./kv",`, `["../kv",`) }},
		{"symlink", func(t *testing.T, dir string) {
			if err := os.Symlink("kv", filepath.Join(dir, "build/amd64/latest")); err != nil {
				t.Fatal(err)
			}
		}},
		{"missing-rules", func(t *testing.T, dir string) { remove(t, dir, "past.hcl"); remove(t, dir, "future.hcl") }},
		{"empty-rules", func(t *testing.T, dir string) { write(t, dir, "past.hcl", nil, 0o644) }},
		{"bad-rules", func(t *testing.T, dir string) { write(t, dir, "past.hcl", []byte("bad"), 0o644) }},
		{"huge-rules", func(t *testing.T, dir string) { write(t, dir, "past.hcl", make([]byte, bundle.MaxRulesBytes+1), 0o644) }},
		{"no-module", func(t *testing.T, dir string) {
			edit(t, dir, `rules = "past.hcl"`, `wasm = "past.hcl"`)
			edit(t, dir, `rules = "future.hcl"`, `wasm = "empty.wasm"`)
			write(t, dir, "empty.wasm", nil, 0o644)
		}},
		{"other-wasm", func(t *testing.T, dir string) {
			edit(t, dir, `rules = "past.hcl"`, `wasm = "past.wasm"`)
			edit(t, dir, `rules = "future.hcl"`, `wasm = "future.wasm"`)
			write(t, dir, "past.wasm", []byte(wasmComponent), 0o644)
			write(t, dir, "future.wasm", []byte(wasmMagic+"\x02\x00\x00\x00"), 0o644)
		}},
		{"bad-module", func(t *testing.T, dir string) {
			edit(t, dir, `rules = "past.hcl"`, `wasm = "past.wasm"`)
			edit(t, dir, `rules = "future.hcl"`, `wasm = "future.wasm"`)
			write(t, dir, "past.wasm", []byte(wasmModule+"bad"), 0o644)
			write(t, dir, "future.wasm", append([]byte(wasmModule), make([]byte, bundle.MaxWasmBytes)...), 0o644)
		}},
		{"missing-object", func(t *testing.T, dir string) {
			edit(t, dir, `rules = "past.hcl"`, `exec = ["./past", "1"]`)
			edit(t, dir, `rules = "future.hcl"`, `exec = ["../kv"]`)
		}},
		{"version-skipped", func(t *testing.T, dir string) {
			edit(t, dir, "version = 2", "version = 9")
			edit(t, dir, "from = 1", "from = 8")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := source(t, 2)
			tc.change(t, dir)
			spec := load(t, dir)
			out := filepath.Join(t.TempDir(), "kv.moult")
			_, err := Build(t.Context(), spec, f, out, Options{CheckRules: func(path string, data []byte) error {
				if string(data) == "bad" {
					return fmt.Errorf("%s: line 1: these are no rules", path)
				}
				return nil
			}, CheckWasm: func(path string, data []byte) error {
				if strings.HasSuffix(string(data), "bad") {
					return fmt.Errorf("%s: it does not export handle_request", path)
				}
				return nil
			}})
			var problems *SpecError
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, want a *SpecError", err)
			}
			compare(t, "testdata/build/"+tc.name+".golden", strings.ReplaceAll(err.Error(), dir, "DIR")+"\n")
			if head := f.Current().Head(); head != 1 {
				t.Errorf("release %d was signed", head)
			}
			if names, err := os.ReadDir(filepath.Dir(out)); err != nil || len(names) > 0 {
				t.Errorf("left behind: %v, %v", names, err)
			}
		})
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func edit(t *testing.T, dir, old, new string) {
	t.Helper()
	path := filepath.Join(dir, "upgrade.hcl")
	data, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(data, []byte(old)) {
		t.Fatalf("no %q in %s (%v)", old, data, err)
	}
	write(t, dir, "upgrade.hcl", bytes.Replace(data, []byte(old), []byte(new), 1), 0o644)
}

// TestBuildWithdrawn: a release goes on from what is not withdrawn.
func TestBuildWithdrawn(t *testing.T) {
	f, out := newFolder(t), filepath.Join(t.TempDir(), "kv.moult")
	for n := 1; n <= 2; n++ {
		if _, err := Build(t.Context(), load(t, source(t, n)), f, out, Options{}); err != nil {
			t.Fatal(err)
		}
	}
	dir := source(t, 3)
	withdrawn := bundle.Withdrawn{{Class: "kv", First: 2, Last: 2}}
	build := func(w bundle.Withdrawn, want string) {
		t.Helper()
		var problems *SpecError
		_, err := Build(t.Context(), load(t, dir), f, out, Options{Withdrawn: w})
		if !errors.As(err, &problems) || !strings.Contains(strings.Join(strings.Fields(err.Error()), " "), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	build(withdrawn, "What release 2 does to class kv is withdrawn, so no node has its state: release 3 upgrades from version 1.")
	edit(t, dir, "from = 2", "from = 1")
	build(nil, "Release 3 upgrades from version 2;")
	if _, err := Check(t.Context(), load(t, dir), f, Options{Withdrawn: withdrawn}); err != nil {
		t.Error(err)
	}
	if _, err := Build(t.Context(), load(t, dir), f, out, Options{Withdrawn: withdrawn}); err != nil {
		t.Fatal(err)
	}
	data, ok := f.SignedRelease(3)
	if m, err := bundle.ParseManifest(data); !ok || err != nil {
		t.Error(err)
	} else if m.Format != bundle.FormatWithdrawn || m.Classes["kv"].From != 1 {
		t.Errorf("format %d, from %d", m.Format, m.Classes["kv"].From)
	}
}

func TestBuildElsewhere(t *testing.T) {
	f := newFolder(t)
	spec := load(t, source(t, 1))
	dir := t.TempDir()
	if _, err := Build(t.Context(), spec, f, filepath.Join(dir, "none", "kv.moult"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into a folder that is not there: %v", err)
	}
	var problems *SpecError
	if _, err := Build(t.Context(), spec, f, dir, Options{}); !errors.As(err, &problems) || !strings.Contains(err.Error(), "give the bundle a file name") {
		t.Errorf("onto a folder: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Build(ctx, spec, f, filepath.Join(dir, "kv.moult"), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if head := f.Current().Head(); head != 0 {
		t.Errorf("release %d was signed", head)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

// filled returns the manifest that spec would become with some software.
func filled(spec *Spec) *bundle.Manifest {
	c := bundle.Chunk{Digest: bundle.Sum([]byte("x")), Length: 1}
	m := &bundle.Manifest{Format: bundle.FormatVersion, Version: spec.Version, Classes: map[bundle.Class]bundle.ClassUpgrade{}}
	for _, s := range spec.Classes {
		u := s.Upgrade
		for _, a := range s.Artifacts {
			u.Artifacts = append(u.Artifacts, bundle.Artifact{Platform: a.Platform, Digest: c.Digest, Length: 1, Chunks: []bundle.Chunk{c}})
		}
		for _, sim := range []*bundle.Simulation{&u.Past, &u.Future} {
			switch sim.Kind {
			case bundle.SimulateRules:
				sim.Rules = c
			case bundle.SimulateWasm:
				sim.Wasm = c
			}
		}
		m.Classes[s.Name] = u
	}
	if a := spec.Agent; a != nil {
		m.Agent = &bundle.AgentUpgrade{MaxUnavailable: a.MaxUnavailable, HealthyDeadline: a.HealthyDeadline}
		for _, art := range a.Artifacts {
			m.Agent.Artifacts = append(m.Agent.Artifacts, bundle.AgentArtifact{Artifact: bundle.Artifact{Platform: art.Platform, Digest: c.Digest, Length: 1, Chunks: []bundle.Chunk{c}}, Program: c.Digest})
		}
	}
	m.Format = m.LowestFormat()
	return m
}
