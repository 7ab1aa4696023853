package selfupdate

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"moult/simlayer/host/child"
	"moult/store/bundle"
	"moult/store/durable"
)

// FolderName is the folder of builds in a data folder.
const FolderName = "agent"

// Program is the name of a build's file.
const Program = "moult"

// ErrUnusable means that a build can never be the agent here: it is no program, or one for
// another platform.
var ErrUnusable = errors.New("it cannot be an agent on this machine")

// Folder is the folder of builds of one data folder. It is safe for concurrent use.
type Folder struct {
	dir  string
	log  *slog.Logger
	role role
	now  func() time.Time
	own  func() (bundle.Digest, error)

	beginning sync.Mutex // a trial

	taking sync.Mutex
	lock   *flock.Flock // taking; of the process that started all; nil: nobody has it yet

	mu      sync.Mutex
	doc     document
	problem error // why doc is not what state.json says
}

// Open reads the folder of a data folder, which need not be there.
func Open(data string, log *slog.Logger) *Folder {
	f := &Folder{dir: filepath.Join(data, FolderName), log: log, role: roleOf(os.Getenv(variable)), now: time.Now}
	f.own = sync.OnceValues(func() (bundle.Digest, error) { return digestOf(child.ThisProgram()) })
	f.read()
	return f
}

func (f *Folder) statePath() string { return filepath.Join(f.dir, "state.json") }

func (f *Folder) path(d bundle.Digest) string { return filepath.Join(f.dir, d.Hex(), Program) }

func (f *Folder) read() {
	data, err := durable.ReadFile(f.statePath(), maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		f.doc, err = decode(data)
	}
	if err != nil {
		f.problem = fmt.Errorf("read which builds of the agent are good, %s: %w: the program that was started runs; remove that file to have it begin anew", f.statePath(), err)
	}
}

// change makes a change of the state durable; where that fails nothing has changed.
func (f *Folder) change(fn func(*document)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.problem != nil {
		return f.problem
	}
	next := f.doc
	next.Failed = slices.Clone(next.Failed)
	fn(&next)
	data, err := next.encode()
	if err == nil {
		err = durable.WriteFile(f.statePath(), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write down which builds of the agent are good: %w", err)
	}
	f.doc = next
	return nil
}

// State tells what is known of the builds. What it returns is the caller's.
func (f *Folder) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := State{Packaged: f.role.kind == "", OnTrial: f.role.kind == onTrial, Failed: slices.Clone(f.doc.Failed), Since: f.doc.Since}
	if !s.Packaged {
		s.Running = Build{Digest: f.role.digest, Path: f.path(f.role.digest)}
		for _, b := range []*Build{f.doc.Confirmed, f.doc.onTrial()} {
			if b != nil && b.Digest == f.role.digest {
				s.Running.Release = b.Release
			}
		}
	}
	if f.problem != nil {
		s.Problem = f.problem.Error()
	}
	return s
}

func (d document) onTrial() *Build {
	if d.Trial == nil {
		return nil
	}
	return &d.Trial.Build
}

// Add copies a program into the folder and returns it as a build. A program that cannot be an
// agent here is refused with ErrUnusable; one that is there already is not copied again.
func (f *Folder) Add(ctx context.Context, program string, release bundle.Version) (b Build, err error) {
	in, err := os.Open(program)
	if err != nil {
		return b, fmt.Errorf("read the build: %w", err)
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	info, err := in.Stat()
	if err != nil {
		return b, fmt.Errorf("read the build: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > MaxBuild {
		return b, fmt.Errorf("%s is no file of at most %d MiB: %w", program, MaxBuild>>20, ErrUnusable)
	}
	if err := runsHere(in); err != nil {
		return b, fmt.Errorf("%s: %w: %w", program, err, ErrUnusable)
	}
	if err := f.make(); err != nil {
		return b, err
	}
	f.sweep()
	return f.keep(ctx, in, release)
}

// make makes the folder where it is not there.
func (f *Folder) make() error {
	if f.problem != nil {
		return f.problem
	}
	err := os.Mkdir(f.dir, 0o700)
	if err == nil {
		err = durable.SyncDir(filepath.Dir(f.dir))
	} else if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err == nil {
		err = f.take()
	}
	if err != nil {
		return fmt.Errorf("folder for builds of the agent: %w", err)
	}
	return nil
}

// take has this process alone decide which build runs. One on trial has it by its parent.
func (f *Folder) take() error {
	f.taking.Lock()
	defer f.taking.Unlock()
	if f.lock != nil || f.role.kind == onTrial {
		return nil
	}
	l := flock.New(filepath.Join(f.dir, "lock"), flock.SetPermissions(0o600))
	ctx, cancel := context.WithTimeout(context.Background(), lockWait)
	defer cancel()
	ok, err := l.TryLockContext(ctx, lockPause)
	if errors.Is(err, context.DeadlineExceeded) || err == nil && !ok {
		err = errors.New("another agent has it")
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", l.Path(), err)
	}
	f.lock = l
	return nil
}

// Own is the digest of this program. It is found out once, which takes the reading of it.
func (f *Folder) Own() (bundle.Digest, error) { return f.own() }

// Runs reports whether a build is what runs now. Where it is, what was noted of builds that were
// handed in here is forgotten: the operator has looked.
func (f *Folder) Runs(b Build) (bool, error) {
	own, err := f.Own()
	if err != nil || own != b.Digest || f.role.kind == onTrial {
		return false, err
	}
	if len(f.State().Failed) == 0 {
		return true, nil
	}
	return true, f.change(func(d *document) { d.forgive(func(g Failure) bool { return g.Release == 0 }) })
}

// keep copies what in has to where its digest says.
func (f *Folder) keep(ctx context.Context, in io.ReadSeeker, release bundle.Version) (b Build, err error) {
	tmp, err := os.MkdirTemp(f.dir, ".new-")
	if err != nil {
		return b, fmt.Errorf("copy the build: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	out, err := os.OpenFile(filepath.Join(tmp, Program), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700)
	if err != nil {
		return b, fmt.Errorf("copy the build: %w", err)
	}
	h := sha256.New()
	// Programs of the node begin by way of the agent's (package bounds), also those of another
	// user, who reaches this file in no other way.
	err = out.Chmod(0o755)
	if err == nil {
		_, err = in.Seek(0, io.SeekStart)
	}
	if err == nil {
		_, err = io.Copy(io.MultiWriter(out, h), io.LimitReader(readerOf(ctx, in), MaxBuild))
	}
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return b, fmt.Errorf("copy the build: %w", err)
	}
	b = Build{Release: release, Digest: bundle.Digest(h.Sum(nil))}
	b.Path = f.path(b.Digest)
	if verify(b.Path, b.Digest) == nil {
		return b, nil
	}
	if err := os.RemoveAll(filepath.Dir(b.Path)); err != nil { // of another content than its name says
		return b, err
	}
	if err := durable.SyncDir(tmp); err != nil {
		return b, err
	}
	return b, durable.Rename(tmp, filepath.Dir(b.Path))
}

// readerOf ends with ctx.
func readerOf(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// verify reads a build's file and compares its digest.
func verify(path string, want bundle.Digest) error {
	got, err := digestOf(path)
	if err == nil && got != want {
		err = fmt.Errorf("%s has changed: it is %s by now", path, got.Short())
	}
	return err
}

func digestOf(path string) (d bundle.Digest, err error) {
	in, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(in, MaxBuild)); err != nil {
		return d, err
	}
	return bundle.Digest(h.Sum(nil)), nil
}

// sweep removes builds that are of no use any more but for the newest, and what a crash has left.
func (f *Folder) sweep() {
	f.mu.Lock()
	used := map[string]bool{f.role.digest.Hex(): true}
	for _, b := range []*Build{f.doc.Confirmed, f.doc.onTrial()} {
		if b != nil {
			used[b.Digest.Hex()] = true
		}
	}
	f.mu.Unlock()
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return
	}
	type old struct {
		name string
		at   time.Time
	}
	var spare []old
	for _, e := range entries {
		_, err := bundle.ParseDigest("sha256:" + e.Name())
		switch {
		case strings.HasPrefix(e.Name(), ".new-"):
			// One that is being made now is younger.
			if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > leftOver {
				f.remove(e.Name())
			}
		case err == nil && !used[e.Name()]:
			if info, err := e.Info(); err == nil {
				spare = append(spare, old{e.Name(), info.ModTime()})
			}
		}
	}
	slices.SortFunc(spare, func(a, b old) int { return b.at.Compare(a.at) })
	for _, o := range spare[min(len(spare), keptTries):] {
		f.remove(o.name)
	}
}

func (f *Folder) remove(name string) {
	if err := os.RemoveAll(filepath.Join(f.dir, name)); err != nil {
		f.log.Warn("an old build of the agent stays", "name", name, "err", err)
	}
}

// Reject writes down that a build was found to be no good before it was tried.
func (f *Folder) Reject(b Build, reason string) error {
	return f.change(func(d *document) { d.fail(Failure{Build: b, Reason: reason, At: f.now()}) })
}

// Begin writes down that a build, which Add has returned, is on trial from the end of this
// agent on, and has deadline to be well. The caller ends its loop, and returns the Switch from
// [moult/agent.Run]. A build that this is already, and one while another is on trial, are
// refused.
func (f *Folder) Begin(b Build, deadline time.Duration) (*Switch, error) {
	if f.role.kind == onTrial {
		return nil, errors.New("this agent is itself on trial")
	}
	if err := verify(b.Path, b.Digest); err != nil {
		return nil, fmt.Errorf("begin a trial: %w", err)
	}
	if deadline <= 0 {
		deadline = DefaultDeadline
	}
	f.beginning.Lock()
	defer f.beginning.Unlock()
	f.mu.Lock()
	another, err := f.doc.onTrial(), f.problem
	f.mu.Unlock()
	if err == nil && another != nil {
		err = fmt.Errorf("%v is on trial", *another)
	}
	if err == nil { // what is there of a trial before must not be taken for this one's
		err = f.clear()
	}
	if err == nil {
		err = f.change(func(d *document) {
			d.Trial = &trial{Build: b, Deadline: bundle.Duration(deadline), Begun: f.now().UTC().Truncate(time.Millisecond)}
		})
	}
	if err != nil {
		return nil, err
	}
	return &Switch{Build: b, Deadline: deadline}, nil
}

// clear removes, for good, what a trial goes by.
func (f *Folder) clear() error {
	return errors.Join(os.RemoveAll(f.before()), os.RemoveAll(f.before()+".new"), os.RemoveAll(f.after()), durable.SyncDir(f.dir))
}

// Withdraw takes back what Begin has written down, where no trial comes of it.
func (f *Folder) Withdraw() error {
	return f.change(func(d *document) { d.Trial = nil })
}

// Switch is why an agent has ended: another build is on trial in its place.
type Switch struct {
	Build
	Deadline time.Duration
	Before   Before
}

// Before is what an agent knew when it gave way: the build on trial must not know less.
type Before struct {
	Node    bundle.NodeID
	Name    string
	Class   bundle.Class
	Cluster bundle.Digest
	Head    bundle.Version // of the releases
	Running bundle.Version
	Number  uint64 // of the node's own record
	Peers   bool   // others were there
}

func (s *Switch) Error() string { return "the agent gives way to " + s.Build.String() }

// Up notes that this build has come up well: it is not counted against it when it ends.
func (f *Folder) Up() {
	f.mu.Lock()
	counted := f.doc.Starts != 0 && f.role.kind == confirmed
	f.mu.Unlock()
	if !counted {
		return
	}
	if err := f.change(func(d *document) { d.Starts = 0 }); err != nil {
		f.log.Warn("it is not noted that this build of the agent is up", "err", err)
	}
}

func bound(text string) string {
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}
