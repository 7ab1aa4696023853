package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"moult/store/bundle"
	"moult/store/durable"
)

// Names within a trust folder; see the package documentation.
const (
	keysDir       = "keys"
	metadataDir   = "metadata"
	releasesDir   = "releases"
	ordersDir     = "rollouts"
	gossipKeyFile = "gossip.key"
	settingsFile  = "settings.json"
	lockFile      = "lock"
)

// DefaultExpires is how long signatures last where Init was not told otherwise.
const DefaultExpires = 365 * 24 * time.Hour

// settingsFormat is the newest form; 2 has Fresh, and is written where that is set.
const settingsFormat = 2

type settings struct {
	Format int `json:"format"`
	// Expires is how long what this folder signs is good.
	Expires bundle.Duration `json:"expires"`
	// Fresh is how long timestamps are good; 0: as long as all else.
	Fresh bundle.Duration `json:"fresh,omitempty"`
}

func (s settings) encode() ([]byte, error) {
	if s.Format = 1; s.Fresh != 0 {
		s.Format = 2
	}
	data, err := json.Marshal(s)
	return append(data, '\n'), err
}

// disk is how a folder changes files; the tests crash it between any two calls.
type disk struct {
	write  func(path string, data []byte, perm fs.FileMode) error
	rename func(from, to string) error
}

// Folder is an open trust folder: keys, the metadata in force, and documents as
// they were signed. It holds a lock on the folder until Close. Not safe for
// concurrent use.
type Folder struct {
	dir      string
	now      time.Time
	disk     disk
	lock     *flock.Flock
	settings settings
	first    []byte
	current  *Verified
}

// InitOptions are the choices of Init.
type InitOptions struct {
	// Now is the time from which Expires counts.
	Now time.Time
	// Expires is how long signatures last; 0 is DefaultExpires.
	Expires time.Duration
}

// Init makes a trust folder: new keys for root, publisher and operator, the
// ring's secret, and the first metadata, with no releases. dir must not exist,
// or be empty. It appears whole or not at all.
func Init(dir string, o InitOptions) error {
	if o.Expires < 0 {
		return fmt.Errorf("make trust folder %s: signatures cannot expire after %s", dir, o.Expires)
	}
	if o.Expires == 0 {
		o.Expires = DefaultExpires
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("make trust folder %s: %w", dir, err)
	}
	if names, err := os.ReadDir(abs); err == nil && len(names) > 0 {
		return fmt.Errorf("make trust folder %s: it exists and is not empty: name another, or use it with --trust %s: %w", dir, dir, fs.ErrExist)
	}
	parent := filepath.Dir(abs)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("make trust folder %s: %w", dir, err)
	}
	tmp, err := os.MkdirTemp(parent, ".moult-trust-*") // mode 0700
	if err != nil {
		return fmt.Errorf("make trust folder %s: %w", dir, err)
	}
	defer os.RemoveAll(tmp)
	if err := initFiles(tmp, o); err != nil {
		return fmt.Errorf("make trust folder %s: %w", dir, err)
	}
	if err := os.Remove(abs); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make trust folder %s: %w", dir, err)
	}
	if err := durable.Rename(tmp, abs); err != nil {
		return fmt.Errorf("make trust folder %s: %w", dir, err)
	}
	return nil
}

// initFiles fills a new folder.
func initFiles(dir string, o InitOptions) error {
	for _, d := range []string{keysDir, metadataDir, releasesDir, ordersDir} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return err
		}
	}
	f := newFolder(dir, o.Now)
	f.settings = settings{Expires: bundle.Duration(o.Expires)}
	keys := map[keyName]*signingKey{}
	for _, name := range []keyName{rootKey, publisherKey, operatorKey} {
		k, err := newSigningKey()
		if err != nil {
			return err
		}
		if err := f.writeKey(f.keyPath(name), k); err != nil {
			return err
		}
		keys[name] = k
	}
	encoded, err := f.settings.encode()
	if err != nil {
		return err
	}
	root, err := f.signFirstRoot(keys)
	if err != nil {
		return err
	}
	f.first = root
	for name, data := range map[string][]byte{gossipKeyFile: newGossipKey(), settingsFile: encoded, rootFile: root} {
		if err := f.disk.write(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	t := metadata.Targets(f.expiry())
	t.Signed.Delegations = delegation(keys[operatorKey])
	targets, err := signFile(t, keys[publisherKey])
	if err != nil {
		return err
	}
	return f.publish(draft{purpose: "sign the first metadata", roots: [][]byte{root}, targets: targets, online: keys[publisherKey]})
}

// signFirstRoot names each role's keys, with a threshold of one.
func (f *Folder) signFirstRoot(keys map[keyName]*signingKey) ([]byte, error) {
	root := metadata.Root(f.expiry())
	for _, r := range []struct {
		role string
		key  keyName
	}{
		{metadata.ROOT, rootKey},
		{metadata.TARGETS, publisherKey},
		{metadata.SNAPSHOT, publisherKey}, {metadata.SNAPSHOT, operatorKey},
		{metadata.TIMESTAMP, publisherKey}, {metadata.TIMESTAMP, operatorKey},
	} {
		if err := root.Signed.AddKey(keys[r.key].public, r.role); err != nil {
			return nil, err
		}
	}
	return signFile(root, keys[rootKey])
}

// delegation hands rollouts/* to the operator.
func delegation(operator *signingKey) *metadata.Delegations {
	return &metadata.Delegations{
		Keys: map[string]*metadata.Key{operator.id: operator.public},
		Roles: []metadata.DelegatedRole{{
			Name: operatorRole, KeyIDs: []string{operator.id}, Threshold: 1, Terminating: true, Paths: []string{orderPattern},
		}},
	}
}

func newFolder(dir string, now time.Time) *Folder {
	return &Folder{dir: dir, now: now, disk: disk{write: durable.WriteFile, rename: durable.Rename}}
}

func (f *Folder) writeKey(path string, k *signingKey) error {
	data, err := k.encode()
	if err != nil {
		return err
	}
	return f.disk.write(path, data, 0o600)
}

// OpenFolder opens and locks a trust folder. now is the time from which new
// signatures count; expired metadata opens all the same, so that it can be
// refreshed. It finishes or discards what a crash has cut short.
func OpenFolder(dir string, now time.Time) (*Folder, error) {
	f := newFolder(dir, now)
	if err := f.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open trust folder %s: %w", dir, err), f.Close())
	}
	return f, nil
}

func (f *Folder) open() error {
	fi, err := os.Stat(filepath.Join(f.dir, rootFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no trust folder there, make one with moult trust init: %w", err)
	case err != nil:
		return err
	case !fi.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", rootFile)
	}
	lock := flock.New(filepath.Join(f.dir, lockFile))
	locked, err := lock.TryLock()
	if err != nil {
		return fmt.Errorf("lock it: %w", err)
	}
	if !locked {
		return errors.New("another moult command has it open: wait for that to end")
	}
	f.lock = lock
	if err := f.readSettings(); err != nil {
		return err
	}
	if f.first, err = durable.ReadFile(filepath.Join(f.dir, rootFile), MaxRootBytes); err != nil {
		return err
	}
	set, err := f.readSet()
	if err != nil {
		return fmt.Errorf("read its metadata (restore the folder from a copy): %w", err)
	}
	if f.current, err = Verify(f.first, nil, set); err != nil {
		return fmt.Errorf("its metadata is damaged (restore the folder from a copy): %w", err)
	}
	if err := f.endRotations(); err != nil {
		return err
	}
	if err := f.endOrders(); err != nil {
		return err
	}
	f.sweep()
	return nil
}

// Close releases the folder. It may be called twice.
func (f *Folder) Close() error {
	if f.lock == nil {
		return nil
	}
	err := f.lock.Close()
	f.lock = nil
	return err
}

// FirstRoot returns the root that agents are given, which names the cluster.
func (f *Folder) FirstRoot() []byte { return bytes.Clone(f.first) }

// Current returns the metadata in force in this folder.
func (f *Folder) Current() *Verified { return f.current }

func (f *Folder) readSettings() error {
	path := filepath.Join(f.dir, settingsFile)
	data, err := durable.ReadFile(path, maxKeyFileBytes)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &f.settings); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if f.settings.Format < 1 || f.settings.Format > settingsFormat {
		return fmt.Errorf("%s: format %d, this moult knows up to format %d: upgrade moult", path, f.settings.Format, settingsFormat)
	}
	if f.settings.Expires <= 0 {
		return fmt.Errorf("%s: signatures cannot expire after %s", path, f.settings.Expires)
	}
	if f.settings.Fresh < 0 {
		return fmt.Errorf("%s: timestamps cannot expire after %s", path, f.settings.Fresh)
	}
	return nil
}

// KeepFresh has timestamps that this folder signs from now on expire after lasts, however
// long the rest is good; 0 is as long as the rest. Whoever hears of no newer one starts
// nothing new after that, so somebody must Refresh more often.
func (f *Folder) KeepFresh(lasts time.Duration) error {
	if lasts < 0 {
		return fmt.Errorf("timestamps cannot expire after %s", lasts)
	}
	next := f.settings
	next.Fresh = bundle.Duration(lasts)
	data, err := next.encode()
	if err == nil {
		err = f.disk.write(filepath.Join(f.dir, settingsFile), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep how long timestamps last: %w", err)
	}
	f.settings = next
	return nil
}

// versionedName names a metadata file by version and content, so that a new
// file never takes the place of one that the timestamp in force names: two
// files of one version exist where somebody has signed twice.
func versionedName(version int64, digest bundle.Digest, file string) string {
	return fmt.Sprintf("%d-%s.%s", version, digest.Short(), file)
}

// readSet follows the timestamp to the files that it names. What else lies
// about is of a change that never came into force.
func (f *Folder) readSet() (Set, error) {
	dir := filepath.Join(f.dir, metadataDir)
	var s Set
	var err error
	if s.Timestamp, err = durable.ReadFile(filepath.Join(dir, timestampFile), MaxPinBytes); err != nil {
		return Set{}, err
	}
	ts, err := decode[metadata.TimestampType](timestampFile, s.Timestamp)
	if err != nil {
		return Set{}, err
	}
	if s.Snapshot, err = f.readPinned(ts.Signed.Meta[snapshotFile], snapshotFile, MaxPinBytes); err != nil {
		return Set{}, err
	}
	sn, err := decode[metadata.SnapshotType](snapshotFile, s.Snapshot)
	if err != nil {
		return Set{}, err
	}
	if s.Targets, err = f.readPinned(sn.Signed.Meta[targetsFile], targetsFile, MaxTargetsBytes); err != nil {
		return Set{}, err
	}
	if p := sn.Signed.Meta[operatorFile]; p != nil {
		if s.Operator, err = f.readPinned(p, operatorFile, MaxTargetsBytes); err != nil {
			return Set{}, err
		}
	}
	root := sn.Signed.Meta[rootFile]
	if root == nil || root.Version < 1 || root.Version > MaxRoots {
		return Set{}, fmt.Errorf("%w: %s: names no root", ErrMalformed, snapshotFile)
	}
	for i := range int(root.Version) {
		data, err := durable.ReadFile(filepath.Join(dir, rootName(i+1)), MaxRootBytes)
		if err != nil {
			return Set{}, err
		}
		s.Roots = append(s.Roots, data)
	}
	return s, nil
}

func (f *Folder) readPinned(p *metadata.MetaFiles, file string, most int64) ([]byte, error) {
	if p == nil || len(p.Hashes["sha256"]) != len(bundle.Digest{}) {
		return nil, fmt.Errorf("%w: nothing names %s by hash", ErrMalformed, file)
	}
	name := versionedName(p.Version, bundle.Digest(p.Hashes["sha256"]), file)
	return durable.ReadFile(filepath.Join(f.dir, metadataDir, name), most)
}

// files names the files of a set below metadata/, the timestamp apart.
func files(v *Verified) map[string][]byte {
	m := map[string][]byte{
		versionedName(v.versions.Snapshot, bundle.Sum(v.set.Snapshot), snapshotFile): v.set.Snapshot,
		versionedName(v.versions.Targets, bundle.Sum(v.set.Targets), targetsFile):    v.set.Targets,
	}
	if len(v.set.Operator) > 0 {
		m[versionedName(v.versions.Operator, bundle.Sum(v.set.Operator), operatorFile)] = v.set.Operator
	}
	for i, r := range v.set.Roots {
		m[rootName(i+1)] = r
	}
	return m
}

// commit makes v the metadata in force: new files under new names first, the
// timestamp that names them last.
func (f *Folder) commit(v *Verified) error {
	dir := filepath.Join(f.dir, metadataDir)
	all := files(v)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		path, data := filepath.Join(dir, name), all[name]
		if old, err := durable.ReadFile(path, int64(len(data))); err == nil && bytes.Equal(old, data) {
			continue
		}
		if err := f.disk.write(path, data, 0o600); err != nil {
			return err
		}
	}
	if err := f.disk.write(filepath.Join(dir, timestampFile), v.set.Timestamp, 0o600); err != nil {
		return err
	}
	f.current = v
	f.sweep()
	return nil
}

// sweep removes metadata files that nothing in force names. It is tidiness
// only, so a failure is left to the next time.
func (f *Folder) sweep() {
	dir := filepath.Join(f.dir, metadataDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	keep := files(f.current)
	keep[timestampFile] = nil
	for _, e := range entries {
		if _, ok := keep[e.Name()]; !ok && strings.Contains(e.Name(), ".json") {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}
