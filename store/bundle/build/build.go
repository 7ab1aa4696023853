package build

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/trust"
	"moult/store/durable"
)

// Options are what Build can be told beyond the spec.
type Options struct {
	// Log hears of each artifact that is packed; nil is silence.
	Log *slog.Logger
	// CheckRules judges a rules file before it is signed, by the examples in it
	// too, and CheckWasm a module that begins as one should; nil takes any. This
	// package knows neither language. Their errors name the file.
	CheckRules, CheckWasm func(path string, data []byte) error
	// Withdrawn is what the operator is known to have withdrawn.
	Withdrawn bundle.Withdrawn
	// Progress hears, on the goroutine of Build, how many bytes of a stage are done; total is 0
	// where that is not known. nil: nobody does.
	Progress func(stage string, done, total int64)
}

// Result says what Build made.
type Result struct {
	Version   bundle.Version
	Manifest  bundle.Digest // its digest: the identity of the release
	Path      string        // the bundle
	Bytes     int64         // of the bundle
	Blobs     int           // chunks and rules files in it
	Artifacts []ArtifactResult
}

// ArtifactResult says what became of one artifact.
type ArtifactResult struct {
	Class bundle.Class // empty: the agent's
	bundle.Platform
	Digest  bundle.Digest
	Bytes   int64 // of its tar
	Chunks  int
	Files   int
	Folders int
}

// Build packs what spec names, signs the release by f's publisher key and
// writes the bundle to out, replacing what was there. It is built beside out,
// which needs room for the artifacts twice, verified as a peer would verify it,
// and then renamed, so out is never a half-written bundle.
//
// The version must follow the newest release in f, or be that release again:
// then the sources must be unchanged, and the bundle comes out as before. All
// that can fail because of the spec or its files fails before anything is
// signed, as a *SpecError.
func Build(ctx context.Context, spec *Spec, f *trust.Folder, out string, o Options) (_ *Result, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := os.MkdirTemp(filepath.Dir(out), ".moult-build-*")
	if err != nil {
		return nil, fmt.Errorf("build release %d: cannot write beside %s: %w", spec.Version, out, err)
	}
	b := builder{spec: spec, folder: f, after: f, onto: f.Current(), dir: dir, out: out, Options: o}
	defer func() { err = errors.Join(err, b.close(), os.RemoveAll(dir)) }()
	return b.run(ctx, "build")
}

// Check does all that Build does, with keys and in a folder that it makes for that and
// throws away: nothing is signed, and no number is spent. f says what the release would
// follow, and needs no keys; where it is nil, that is not looked at.
func Check(ctx context.Context, spec *Spec, f *trust.Folder, o Options) (_ *Result, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := os.MkdirTemp("", "moult-check-*")
	if err != nil {
		return nil, fmt.Errorf("check release %d: %w", spec.Version, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "trust")
	now := time.Now()
	if err := trust.Init(path, trust.InitOptions{Now: now}); err != nil {
		return nil, fmt.Errorf("check release %d: %w", spec.Version, err)
	}
	thrown, err := trust.OpenFolder(path, now)
	if err != nil {
		return nil, fmt.Errorf("check release %d: %w", spec.Version, err)
	}
	b := builder{spec: spec, folder: thrown, dir: dir, out: filepath.Join(dir, "release.moult"), Options: o}
	if f != nil {
		b.after, b.onto = f, f.Current()
	}
	defer func() { err = errors.Join(err, b.close(), thrown.Close()) }()
	return b.run(ctx, "check")
}

func (b *builder) run(ctx context.Context, what string) (*Result, error) {
	result, err := b.build(ctx)
	if err != nil {
		var problems *SpecError
		if errors.As(err, &problems) {
			return nil, problems
		}
		return nil, fmt.Errorf("%s release %d: %w", what, b.spec.Version, err)
	}
	return result, nil
}

// builder is one run of Build.
type builder struct {
	Options
	spec   *Spec
	folder *trust.Folder
	after  *trust.Folder   // has what the release follows; nil: not known
	onto   *trust.Verified // that is in force there
	dir    string          // temporary
	out    string

	problems hcl.Diagnostics
	packed   []*packed
	blobs    []archive.Blob
	result   Result
}

func (b *builder) build(ctx context.Context) (_ *Result, err error) {
	m := &bundle.Manifest{
		Version:       b.spec.Version,
		Previous:      b.previous(),
		FinalizeAfter: b.spec.FinalizeAfter,
		Classes:       map[bundle.Class]bundle.ClassUpgrade{},
	}
	b.checkSources()
	if b.problems.HasErrors() {
		return nil, specError(b.problems, b.spec.files)
	}
	for i := range b.spec.Classes {
		c := &b.spec.Classes[i]
		u, err := b.class(ctx, c)
		if err != nil {
			return nil, err
		}
		m.Classes[c.Name] = u
	}
	if m.Agent, err = b.agent(ctx); err != nil {
		return nil, err
	}
	if b.problems.HasErrors() {
		return nil, specError(b.problems, b.spec.files)
	}
	m.Format = m.LowestFormat()
	data, err := bundle.MarshalManifest(m)
	if err != nil {
		return nil, err
	}
	if err := b.checkContent(m.Version, data); err != nil {
		return nil, err
	}
	if b.folder != b.after { // it is thrown away, and nothing comes before
		m.Previous = bundle.Digest{}
		if data, err = bundle.MarshalManifest(m); err != nil {
			return nil, err
		}
	}
	v, err := b.folder.AddRelease(m.Version, data)
	if err != nil {
		return nil, err
	}
	if err := b.write(v, data); err != nil {
		return nil, err
	}
	b.result.Version, b.result.Manifest, b.result.Path = m.Version, bundle.Sum(data), b.out
	return &b.result, nil
}

func (b *builder) fail(at hcl.Range, summary, format string, args ...any) {
	b.problems = append(b.problems, problem(at, summary, format, args...))
}

// previous returns the digest of the manifest that this release continues.
func (b *builder) previous() bundle.Digest {
	v, n := b.onto, b.spec.Version
	if v == nil {
		return bundle.Digest{}
	}
	if head := v.Head(); head != 0 && n != head && n != head+1 {
		b.fail(b.spec.at, "Wrong version", "The newest release in the trust folder is %d: the next is %d (or %d, to build that one again).", head, head+1, head)
	}
	ref, _ := v.Release(n - 1) // none before the first release
	return ref.Digest
}

// checkContent reports that the number has been signed with other content, before a
// folder that knows nothing of that signs it.
func (b *builder) checkContent(n bundle.Version, data []byte) error {
	if b.onto == nil {
		return nil
	}
	if known, ok := b.onto.Release(n); ok && known.Digest != bundle.Sum(data) {
		return fmt.Errorf("%w: it was signed before with manifest %s, and this is %s: give the new content the next number",
			trust.ErrConflict, known.Digest.Short(), bundle.Sum(data).Short())
	}
	return nil
}

// checkSources looks at every file that the spec names, so that one run tells
// all that is missing, and before the long work begins.
func (b *builder) checkSources() {
	if info, err := os.Stat(b.out); err == nil && info.IsDir() {
		b.fail(b.spec.at, "Nowhere to write", "%s is a folder: give the bundle a file name.", b.out)
	}
	for i := range b.spec.Classes {
		c := &b.spec.Classes[i]
		b.checkFrom(c)
		for _, a := range c.Artifacts {
			b.checkArtifact(c, a)
		}
		for _, o := range c.objects(&c.Upgrade) {
			if _, err := b.object(o); err != nil {
				b.fail(o.at, "Bad "+o.sim.Kind+" file", "%s.", err)
			}
		}
	}
	b.checkAgent()
}

// checkFrom looks whether a node can be at the version that a class is taken from: there
// is no state of one that is withdrawn.
func (b *builder) checkFrom(c *ClassSpec) {
	n := b.spec.Version
	if c.Upgrade.From == 0 || b.after == nil {
		return
	}
	want := b.Withdrawn.From(c.Name, n, func(v bundle.Version) (changes, known bool) {
		if data, ok := b.after.SignedRelease(v); ok {
			if m, err := bundle.ParseManifest(data); err == nil {
				_, changes = m.Classes[c.Name]
				return changes, true
			}
		}
		return false, false
	})
	switch {
	case c.Upgrade.From == want:
	case want+1 == n:
		b.fail(c.from, "Wrong from", "Release %d upgrades from version %d; without from it installs the class. It can say less only where all between is known to be withdrawn.", n, want)
	default:
		b.fail(c.from, "Wrong from", "What release %d does to class %s is withdrawn, so no node has its state: release %d upgrades from version %d.", want+1, c.Name, n, want)
	}
}

// source looks at what an artifact is made of; nil where there is nothing to look at.
func (b *builder) source(a ArtifactSpec) (path string, info fs.FileInfo) {
	path = b.path(a.Path)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		b.fail(a.at, "Missing artifact", "There is nothing at %s: build the software for %s first.", path, a.Platform)
		return path, nil
	case err != nil:
		b.fail(a.at, "Unreadable artifact", "%s.", err)
		return path, nil
	}
	return path, info
}

func (b *builder) checkArtifact(c *ClassSpec, a ArtifactSpec) {
	path, info := b.source(a)
	if info == nil {
		return
	}
	for _, p := range c.programs {
		if problem := checkProgram(path, info, a, p.name); problem != "" {
			b.fail(p.at, "Missing program", "%q is not a program in the artifact for %s: %s. Commands run in the artifact's folder.", p.name, a.Platform, problem)
		}
	}
}

// checkProgram reports why a node could not start the program name from the
// artifact at path. Names without a slash are looked up on the node.
func checkProgram(path string, info fs.FileInfo, a ArtifactSpec, name string) string {
	if !strings.Contains(name, "/") || filepath.IsAbs(name) || strings.Contains(name, "${") {
		return ""
	}
	local := filepath.Clean(filepath.FromSlash(name))
	if !filepath.IsLocal(local) {
		return "it lies outside"
	}
	if info.IsDir() {
		program, err := os.Stat(filepath.Join(path, local))
		if err != nil {
			return fmt.Sprintf("%s has no such file", path)
		}
		info = program
	} else if file := cmp.Or(a.Name, filepath.Base(path)); file != local {
		return fmt.Sprintf("the only file is %q (an artifact of one file can say what it is called: name = %q)", file, local)
	}
	switch {
	case !info.Mode().IsRegular():
		return "it is no plain file"
	case info.Mode()&0o111 == 0 && a.OS != "windows":
		return "it may not be executed; set its mode with chmod +x"
	}
	return ""
}

func (b *builder) path(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(b.spec.dir, p)
}

// class packs the artifacts and objects of a class.
func (b *builder) class(ctx context.Context, c *ClassSpec) (bundle.ClassUpgrade, error) {
	u := c.Upgrade
	for _, a := range c.Artifacts {
		p, err := b.pack(ctx, c.Name, a)
		if err != nil {
			return u, err
		}
		if p != nil {
			u.Artifacts = append(u.Artifacts, p.Artifact)
		}
	}
	for _, o := range c.objects(&u) {
		data, err := b.object(o)
		if err != nil {
			return u, err
		}
		blob := bundle.Chunk{Digest: bundle.Sum(data), Length: int64(len(data))}
		if o.sim.Kind == bundle.SimulateRules {
			o.sim.Rules = blob
		} else {
			o.sim.Wasm = blob
		}
		b.blobs = append(b.blobs, archive.Blob{Chunk: blob, Content: bytes.NewReader(data)})
	}
	return u, nil
}

// pack packs an artifact of a class, or of the agent where class is empty; nil where it is
// unfit, which it notes.
func (b *builder) pack(ctx context.Context, class bundle.Class, a ArtifactSpec) (*packed, error) {
	p, err := pack(ctx, b.dir, b.path(a.Path), a, b.Options)
	if errors.Is(err, archive.ErrUnfit) {
		b.fail(a.at, "Unfit artifact", "%s.", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b.Log.Info("artifact packed", "class", class, "platform", a.Platform.String(), "bytes", p.Length, "files", p.Files, "chunks", len(p.Chunks))
	b.packed = append(b.packed, p)
	b.blobs = append(b.blobs, p.blobs()...)
	b.result.Artifacts = append(b.result.Artifacts, ArtifactResult{
		Class: class, Platform: a.Platform, Digest: p.Digest,
		Bytes: p.Length, Chunks: len(p.Chunks), Files: p.Files, Folders: p.Folders,
	})
	return p, nil
}

// write writes the bundle beside its place, opens it as a peer would, and
// publishes it.
func (b *builder) write(v *trust.Verified, head []byte) (err error) {
	f, err := os.OpenFile(filepath.Join(b.dir, "bundle"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreClosed(f.Close()))
		}
	}()
	total, known := int64(0), map[bundle.Digest]bool{}
	for _, blob := range b.blobs {
		if !known[blob.Digest] {
			total += blob.Length
		}
		known[blob.Digest] = true
	}
	writing := b.meter("writing", total)
	writing.w = f
	if err := archive.Write(writing, v, b.docs(v, head), b.blobs); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	checking := b.meter("checking", info.Size())
	checking.at = f
	opened, err := archive.Open(checking, info.Size(), b.folder.FirstRoot(), nil)
	if err != nil {
		return fmt.Errorf("the new bundle does not verify, so it is not kept: %w", err)
	}
	b.result.Bytes, b.result.Blobs = info.Size(), len(opened.Blobs())
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return durable.Rename(f.Name(), b.out)
}

// docs returns what the folder has of documents in force, manifests and rollout
// orders, from the newest release back as far as there is room.
func (b *builder) docs(v *trust.Verified, head []byte) archive.Docs {
	docs := archive.Docs{
		Manifests: map[bundle.Version][]byte{v.Head(): head},
		Orders:    map[bundle.Version][]byte{},
	}
	total := len(head)
	add := func(to map[bundle.Version][]byte, n bundle.Version, data []byte) {
		if total+len(data) <= archive.MaxDocumentBytes {
			total += len(data)
			to[n] = data
		}
	}
	for _, n := range slices.Backward(v.Releases()) {
		if data, ok := b.folder.SignedRelease(n); ok && n != v.Head() {
			add(docs.Manifests, n, data)
		}
		_, order, ok := b.folder.LastOrder(n)
		if ref, inForce := v.Order(n); ok && inForce && ref.Digest == bundle.Sum(order) {
			add(docs.Orders, n, order)
		}
	}
	return docs
}

// close closes the temporary files.
func (b *builder) close() error {
	var errs []error
	for _, p := range b.packed {
		errs = append(errs, p.file.Close())
	}
	return errors.Join(errs...)
}

func ignoreClosed(err error) error {
	if errors.Is(err, fs.ErrClosed) {
		return nil
	}
	return err
}
