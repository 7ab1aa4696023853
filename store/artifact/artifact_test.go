package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"moult/store/bundle"
	"moult/store/bundle/archive"
)

const (
	childEnv = "MOULT_ARTIFACT_TEST_CHILD"
	chunk    = 4096
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		childAssemble(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustOpen(t testing.TB, dir string, o Options) *Depot {
	t.Helper()
	d, err := Open(dir, o)
	must(t, err)
	return d
}

// software is an artifact for tests: a program and some data that depends on seed
// only in its last third, so that two seeds share chunks.
func software(t testing.TB, seed byte, size int) (bundle.Artifact, []byte) {
	t.Helper()
	dir := t.TempDir()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	for i := 2 * size / 3; i < size; i++ {
		data[i] ^= seed
	}
	must(t, os.Mkdir(filepath.Join(dir, "lib"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "lib", "data"), data, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "run"), fmt.Appendf(nil, "#!/bin/sh\necho %d\n", seed), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "zeros"), make([]byte, 4*chunk), 0o644)) // chunks that repeat
	var tar bytes.Buffer
	_, err := archive.Pack(t.Context(), &tar, dir, "")
	must(t, err)
	return cut(tar.Bytes()), tar.Bytes()
}

func cut(tar []byte) bundle.Artifact {
	a := bundle.Artifact{Platform: bundle.Platform{OS: "linux", Arch: "amd64"}, Digest: bundle.Sum(tar), Length: int64(len(tar))}
	for c := range slices.Chunk(tar, chunk) {
		a.Chunks = append(a.Chunks, bundle.Chunk{Digest: bundle.Sum(c), Length: int64(len(c))})
	}
	return a
}

func bytesOf(tar []byte, a bundle.Artifact, want bundle.Digest) []byte {
	var at int64
	for _, c := range a.Chunks {
		if c.Digest == want {
			return tar[at : at+c.Length]
		}
		at += c.Length
	}
	return nil
}

func begin(t testing.TB, d *Depot, a bundle.Artifact) *Assembly {
	t.Helper()
	as, err := d.Begin(a)
	must(t, err)
	t.Cleanup(func() { _ = as.Close() })
	return as
}

// putAll puts what is missing, and returns how much that was.
func putAll(t testing.TB, as *Assembly, tar []byte) int {
	t.Helper()
	missing := as.Missing()
	for _, c := range missing {
		must(t, as.Put(c.Digest, bytesOf(tar, as.art, c.Digest)))
	}
	return len(missing)
}

func install(t testing.TB, d *Depot, a bundle.Artifact, tar []byte) string {
	t.Helper()
	as := begin(t, d, a)
	putAll(t, as, tar)
	dir, err := as.Finish()
	must(t, err)
	return dir
}

func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	must(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], at)
	must(t, errors.Join(err, f.Close()))
}

func TestAssembleUnpackServe(t *testing.T) {
	dir := t.TempDir()
	d := mustOpen(t, dir, Options{})
	a, tar := software(t, 1, 40_000)
	as := begin(t, d, a)
	if have, total := as.Progress(); have != 0 || total != a.Length {
		t.Fatalf("progress %d of %d", have, total)
	}
	if _, err := as.Finish(); err == nil || !strings.Contains(err.Error(), "chunks are missing") {
		t.Fatalf("finish of nothing: %v", err)
	}
	if as.Put(bundle.Sum([]byte("x")), []byte("x")) == nil {
		t.Error("a chunk of another artifact was taken")
	}
	if as.Put(a.Chunks[0].Digest, tar[chunk:2*chunk]) == nil {
		t.Error("wrong bytes were taken")
	}
	if n := putAll(t, as, tar); n >= len(a.Chunks) {
		t.Errorf("%d of %d chunks missing: none repeats", n, len(a.Chunks))
	}
	if have, total := as.Progress(); have != total {
		t.Fatalf("progress %d of %d", have, total)
	}
	got, err := as.Finish()
	must(t, err)
	b, err := os.ReadFile(filepath.Join(got, "run"))
	if err != nil || !strings.HasSuffix(string(b), "echo 1\n") {
		t.Fatalf("unpacked %q, %v", b, err)
	}
	if again, err := as.Finish(); again != got || err != nil {
		t.Fatalf("second Finish: %q %v", again, err)
	}

	d = mustOpen(t, dir, Options{}) // and after a restart
	if again, ok := d.Dir(a.Digest); again != got || !ok || !d.Has(a.Digest) {
		t.Fatalf("folder %q %v", again, ok)
	}
	must(t, d.Verify(t.Context(), a.Digest))
	for _, c := range a.Chunks {
		data, ok, err := d.Chunk(c.Digest)
		if !ok || err != nil || !bytes.Equal(data, bytesOf(tar, a, c.Digest)) {
			t.Fatalf("chunk %s: %v %v", c.Digest.Short(), ok, err)
		}
	}
	bits, n, ok := d.Have(a.Digest)
	if !ok || n != len(a.Chunks) || bits[0] != 0xff || bits[len(bits)-1] != byte(1<<((n-1)%8+1)-1) {
		t.Fatalf("have %x of %d, %v", bits, n, ok)
	}
	if _, _, ok := d.Have(bundle.Sum(nil)); ok {
		t.Error("has an unknown artifact")
	}
	if as, err := d.Begin(a); err != nil || len(as.Missing()) != 0 {
		t.Fatalf("begin what is there: %v", err)
	}
}

func TestResume(t *testing.T) {
	dir := t.TempDir()
	d := mustOpen(t, dir, Options{})
	a, tar := software(t, 1, 100_000)
	as := begin(t, d, a)
	missing := as.Missing()
	for _, c := range missing[:len(missing)/2] {
		must(t, as.Put(c.Digest, bytesOf(tar, a, c.Digest)))
	}
	if _, err := d.Begin(a); !errors.Is(err, ErrBusy) {
		t.Fatalf("second begin: %v", err)
	}
	data, ok, err := d.Chunk(missing[0].Digest)
	if !ok || err != nil || bundle.Sum(data) != missing[0].Digest {
		t.Fatalf("a partial artifact does not serve: %v %v", ok, err)
	}
	if bits, _, ok := d.Have(a.Digest); !ok || bits[0]&1 == 0 || bits[len(bits)-1]&(1<<((len(a.Chunks)-1)%8)) != 0 {
		t.Fatalf("have %x %v", bits, ok)
	}
	must(t, as.Close())
	must(t, as.Close())
	if as.Put(missing[len(missing)-1].Digest, bytesOf(tar, a, missing[len(missing)-1].Digest)) == nil {
		t.Error("a closed assembly takes chunks")
	}
	flip(t, filepath.Join(dir, a.Digest.Hex()+".partial"), 10)

	d = mustOpen(t, dir, Options{})
	as = begin(t, d, a)
	want := 1 // the flipped one
	for _, c := range missing[len(missing)/2:] {
		if len(bytes.Trim(bytesOf(tar, a, c.Digest), "\x00")) > 0 { // zeros are there, as a hole
			want++
		}
	}
	if got := len(as.Missing()); got != want || as.Missing()[0] != a.Chunks[0] {
		t.Fatalf("%d missing after resuming, want %d with the flipped one", got, want)
	}
	putAll(t, as, tar)
	// A chunk that goes bad now is found by Finish, and can be put again.
	flip(t, filepath.Join(dir, a.Digest.Hex()+".partial"), 5*chunk+1)
	if _, err := as.Finish(); !errors.Is(err, ErrDamaged) {
		t.Fatalf("finish: %v", err)
	}
	if n := putAll(t, as, tar); n != 1 {
		t.Fatalf("%d chunks missing", n)
	}
	_, err = as.Finish()
	must(t, err)
	must(t, d.Verify(t.Context(), a.Digest))
}

func TestKnownChunksAreCopied(t *testing.T) {
	d := mustOpen(t, t.TempDir(), Options{})
	a1, tar1 := software(t, 1, 120_000)
	a2, tar2 := software(t, 2, 120_000)
	install(t, d, a1, tar1)
	as := begin(t, d, a2)
	if n := len(as.Missing()); n == 0 || n > len(a2.Chunks)/2 {
		t.Fatalf("%d of %d chunks to be fetched", n, len(a2.Chunks))
	}
	putAll(t, as, tar2)
	_, err := as.Finish()
	must(t, err)
	must(t, d.Verify(t.Context(), a2.Digest))
	// What both have is served when one of them goes.
	must(t, d.Remove(a1.Digest))
	if _, ok, err := d.Chunk(a2.Chunks[1].Digest); !ok || err != nil {
		t.Fatalf("shared chunk: %v %v", ok, err)
	}
	for _, c := range a1.Chunks {
		if _, ok, err := d.Chunk(c.Digest); err != nil || ok != slices.Contains(a2.Chunks, c) {
			t.Fatalf("chunk %s: %v %v", c.Digest.Short(), ok, err)
		}
	}
}

func TestFlippedBitIsNotServedAndMended(t *testing.T) {
	dir := t.TempDir()
	d := mustOpen(t, dir, Options{})
	a, tar := software(t, 1, 60_000)
	install(t, d, a, tar)
	path := filepath.Join(dir, a.Digest.Hex()+".tar")
	for i, c := range a.Chunks[:8] {
		flip(t, path, int64(i*chunk+77))
		data, ok, err := d.Chunk(c.Digest)
		if ok || !errors.Is(err, ErrDamaged) || data != nil {
			t.Fatalf("chunk %d: served %v, %v", i, ok, err)
		}
		if _, _, ok := d.Have(a.Digest); ok || d.Has(a.Digest) || !slices.Contains(d.Damaged(), a.Digest) {
			t.Fatal("a damaged artifact is offered")
		}
		as := begin(t, d, a)
		if m := as.Missing(); len(m) != 1 || m[0] != c {
			t.Fatalf("missing %v", m)
		}
		putAll(t, as, tar)
		_, err = as.Finish()
		must(t, err)
		if !d.Has(a.Digest) || len(d.Damaged()) != 0 {
			t.Fatal("still damaged")
		}
	}
}

func TestVerifyFindsEveryChange(t *testing.T) {
	d := mustOpen(t, t.TempDir(), Options{})
	a, tar := software(t, 1, 20_000)
	dir := install(t, d, a, tar)
	for name, harm := range map[string]func(){
		"bit":      func() { flip(t, filepath.Join(dir, "lib/data"), 5000) },
		"added":    func() { must(t, os.WriteFile(filepath.Join(dir, "lib/evil.so"), nil, 0o644)) },
		"removed":  func() { must(t, os.Remove(filepath.Join(dir, "zeros"))) },
		"no exec":  func() { must(t, os.Chmod(filepath.Join(dir, "run"), 0o644)) },
		"exec":     func() { must(t, os.Chmod(filepath.Join(dir, "zeros"), 0o755)) },
		"renamed":  func() { must(t, os.Rename(filepath.Join(dir, "run"), filepath.Join(dir, "run2"))) },
		"link":     func() { must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "link"))) },
		"cut":      func() { must(t, os.Truncate(filepath.Join(dir, "lib/data"), 100)) },
		"is gone":  func() { must(t, os.RemoveAll(dir)) },
		"is empty": func() { must(t, os.RemoveAll(dir)); must(t, os.Mkdir(dir, 0o755)) },
	} {
		must(t, d.Verify(t.Context(), a.Digest))
		harm()
		if err := d.Verify(t.Context(), a.Digest); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := d.Ensure(t.Context(), a.Digest); got != dir || err != nil {
			t.Fatalf("%s: ensure: %q %v", name, got, err)
		}
	}
	// With the tar gone bad, too, Ensure must not run what it unpacks.
	flip(t, filepath.Join(d.dir, a.Digest.Hex()+".tar"), 2000)
	flip(t, filepath.Join(dir, "lib/data"), 5000)
	if _, err := d.Ensure(t.Context(), a.Digest); !errors.Is(err, ErrDamaged) {
		t.Fatalf("ensure from a damaged tar: %v", err)
	}
	if d.Has(a.Digest) {
		t.Fatal("the tar counts as good")
	}
	as := begin(t, d, a)
	if n := putAll(t, as, tar); n != 1 {
		t.Fatalf("%d chunks missing", n)
	}
	_, err := as.Finish()
	must(t, err)
	_, err = d.Ensure(t.Context(), a.Digest)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Ensure(ctx, a.Digest); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	entries, err := os.ReadDir(d.dir)
	must(t, err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

func TestTableThatDoesNotMakeTheTar(t *testing.T) {
	d := mustOpen(t, t.TempDir(), Options{})
	a, tar := software(t, 1, 20_000)
	wrong := a
	wrong.Digest = bundle.Sum([]byte("another"))
	as := begin(t, d, wrong)
	putAll(t, as, tar)
	if _, err := as.Finish(); err == nil || !strings.Contains(err.Error(), "do not make up the tar") {
		t.Fatalf("got %v", err)
	}
	if _, ok := d.Dir(wrong.Digest); ok {
		t.Fatal("it was unpacked")
	}
	for name, bad := range map[string]func(*bundle.Artifact){
		"no chunks":   func(a *bundle.Artifact) { a.Chunks = nil },
		"wrong sum":   func(a *bundle.Artifact) { a.Length++ },
		"huge chunk":  func(a *bundle.Artifact) { a.Chunks[0].Length = bundle.MaxChunkBytes + 1 },
		"empty chunk": func(a *bundle.Artifact) { a.Chunks[0].Length = 0 },
		"no digest":   func(a *bundle.Artifact) { a.Digest = bundle.Digest{} },
	} {
		b := a
		b.Chunks = slices.Clone(a.Chunks)
		bad(&b)
		if _, err := d.Begin(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestRoom(t *testing.T) {
	a1, tar1 := software(t, 1, 20_000)
	a2, _ := software(t, 2, 20_000)
	d := mustOpen(t, t.TempDir(), Options{MaxBytes: 3 * a1.Length})
	install(t, d, a1, tar1)
	if _, err := d.Begin(a2); !errors.Is(err, ErrFull) {
		t.Fatalf("got %v", err)
	}
	if _, err := d.PutBlob(make([]byte, a1.Length+1)); !errors.Is(err, ErrFull) {
		t.Fatalf("got %v", err)
	}
	must(t, d.Remove(a1.Digest))
	as := begin(t, d, a2)
	if err := d.Remove(a2.Digest); !errors.Is(err, ErrBusy) {
		t.Fatalf("remove while assembling: %v", err)
	}
	must(t, as.Close())

	full := errors.New("disk full")
	d = mustOpen(t, t.TempDir(), Options{CheckSpace: func(_ string, need int64) error {
		if need > a1.Length {
			return full
		}
		return nil
	}})
	if _, err := d.Begin(a1); !errors.Is(err, full) || !errors.Is(err, ErrFull) {
		t.Fatalf("got %v", err)
	}
	if entries, err := os.ReadDir(d.dir); err != nil || len(entries) != 1 {
		t.Fatalf("left behind: %v %v", entries, err)
	}
}

func TestBlobs(t *testing.T) {
	dir := t.TempDir()
	d := mustOpen(t, dir, Options{})
	c, err := d.PutBlob([]byte("rules"))
	must(t, err)
	if c.Digest != bundle.Sum([]byte("rules")) || c.Length != 5 || !d.HasBlob(c.Digest) {
		t.Fatalf("%+v", c)
	}
	_, err = d.PutBlob([]byte("rules"))
	must(t, err)
	d = mustOpen(t, dir, Options{})
	if b, ok, err := d.Blob(c.Digest); string(b) != "rules" || !ok || err != nil {
		t.Fatalf("%q %v %v", b, ok, err)
	}
	if d.blobBytes != 5 {
		t.Fatalf("%d bytes", d.blobBytes)
	}
	flip(t, d.blobPath(c.Digest), 1)
	if _, ok, err := d.Blob(c.Digest); ok || !errors.Is(err, ErrDamaged) {
		t.Fatalf("flipped: %v %v", ok, err)
	}
	if _, ok, err := d.Blob(c.Digest); ok || err != nil || d.HasBlob(c.Digest) || d.blobBytes != 0 {
		t.Fatalf("afterwards: %v %v", ok, err)
	}
	if _, err := d.PutBlob(make([]byte, MaxBlob+1)); err == nil {
		t.Error("a blob too large was taken")
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	d := mustOpen(t, dir, Options{})
	var arts []bundle.Artifact
	for seed := range byte(3) {
		a, tar := software(t, seed+1, 10_000)
		install(t, d, a, tar)
		arts = append(arts, a)
	}
	partial, _ := software(t, 9, 10_000)
	as := begin(t, d, partial)
	keep, err := d.PutBlob([]byte("keep"))
	must(t, err)
	_, err = d.PutBlob([]byte("drop"))
	must(t, err)
	n, err := d.Sweep([]bundle.Digest{arts[1].Digest, keep.Digest})
	if n != 3 || err != nil {
		t.Fatalf("removed %d, %v", n, err)
	}
	must(t, d.Verify(t.Context(), arts[1].Digest))
	if len(as.Missing()) == 0 || !d.HasBlob(keep.Digest) {
		t.Fatal("swept what was in use")
	}
	must(t, as.Close())
	if n, err := d.Sweep(nil); n != 3 || err != nil {
		t.Fatalf("removed %d, %v", n, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if len(left) != 1 || err != nil {
		t.Fatalf("left: %v", left)
	}
}

func TestConcurrentPutAndServe(t *testing.T) {
	d := mustOpen(t, t.TempDir(), Options{})
	a, tar := software(t, 1, 300_000)
	as := begin(t, d, a)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, c := range as.Missing() {
				if err := as.Put(c.Digest, bytesOf(tar, a, c.Digest)); err != nil {
					t.Error(err)
				}
				if data, ok, err := d.Chunk(c.Digest); err != nil || ok && bundle.Sum(data) != c.Digest {
					t.Error(ok, err)
				}
				d.Have(a.Digest)
				as.Progress()
			}
		})
	}
	wg.Wait()
	_, err := as.Finish()
	must(t, err)
	must(t, d.Verify(t.Context(), a.Digest))
}

// childAssemble installs the artifact that the parent has left in dir/source,
// over and over.
func childAssemble(dir string) {
	tar, err := os.ReadFile(filepath.Join(dir, "source"))
	a := cut(tar)
	for err == nil {
		var d *Depot
		var as *Assembly
		if d, err = Open(filepath.Join(dir, "depot"), Options{}); err != nil {
			break
		}
		if as, err = d.Begin(a); err != nil {
			break
		}
		for _, c := range as.Missing() {
			err = errors.Join(err, as.Put(c.Digest, bytesOf(tar, a, c.Digest)))
		}
		var got string
		if got, err = as.Finish(); err == nil {
			err = errors.Join(d.Verify(context.Background(), a.Digest), d.Remove(a.Digest))
		}
		fmt.Println(got)
	}
	fmt.Println(err)
	os.Exit(1)
}

// TestKillWhileAssembling: whatever folder is there after a kill is whole, and
// the next process goes on.
func TestKillWhileAssembling(t *testing.T) {
	dir := t.TempDir()
	a, tar := software(t, 1, 400_000)
	must(t, os.WriteFile(filepath.Join(dir, "source"), tar, 0o600))
	rng := rand.New(rand.NewPCG(3, 4))
	whole := 0
	for round := range 15 {
		self, err := os.Executable()
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(10+rng.IntN(80))*time.Millisecond)
		cmd := exec.CommandContext(ctx, self)
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := cmd.CombinedOutput()
		cancel()
		if err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("round %d: %v: %s", round, err, out)
		}
		if _, err := os.Stat(filepath.Join(dir, "depot", "blobs")); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		d := mustOpen(t, filepath.Join(dir, "depot"), Options{})
		if _, ok := d.Dir(a.Digest); ok {
			whole++
			must(t, d.Verify(t.Context(), a.Digest))
		}
		install(t, d, a, tar)
		must(t, d.Verify(t.Context(), a.Digest))
		if round%2 == 0 {
			must(t, d.Remove(a.Digest))
		}
	}
	t.Logf("%d rounds ended with a folder", whole)
}
