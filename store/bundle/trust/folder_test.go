package trust

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"moult/store/bundle"
)

func TestInit(t *testing.T) {
	dir := initFolder(t)
	f := openFolder(t, dir)
	v := f.Current()
	if v.Versions() != (Versions{Root: 1, Timestamp: 1, Snapshot: 1, Targets: 1}) || v.Head() != 0 {
		t.Errorf("a new folder has %+v, head %d", v.Versions(), v.Head())
	}
	if want := start.Add(DefaultExpires); !v.Expires().Equal(want) {
		t.Errorf("expires %s, want %s", v.Expires(), want)
	}
	g, err := Genesis(f.FirstRoot())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(f.FirstRoot(), g, v.Set()); err != nil {
		t.Error(err)
	}
	secret, err := f.GossipKey()
	if err != nil || len(secret) != 32 {
		t.Errorf("ring's secret: %d bytes, %v", len(secret), err)
	}
	for path, want := range map[string]fs.FileMode{".": 0o700 | fs.ModeDir, "keys": 0o700 | fs.ModeDir, "keys/root.pem": 0o600,
		"keys/publisher.pem": 0o600, "keys/operator.pem": 0o600, "gossip.key": 0o600} {
		if fi, err := os.Stat(filepath.Join(dir, path)); err != nil || fi.Mode() != want {
			t.Errorf("%s: mode %v, want %v: %v", path, fi.Mode(), want, err)
		}
	}
	if err := Init(dir, InitOptions{Now: start}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("init twice: %v", err)
	}
	empty := t.TempDir()
	if err := Init(empty, InitOptions{Now: start, Expires: time.Hour}); err != nil {
		t.Errorf("init in an empty folder: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), ".moult-trust-*")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v %v", left, err)
	}
}

func TestOpenFolderRefuses(t *testing.T) {
	dir := initFolder(t)
	f := openFolder(t, dir)
	if _, err := OpenFolder(dir, start); err == nil || !strings.Contains(err.Error(), "another moult command") {
		t.Errorf("open twice: %v", err)
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Errorf("close twice: %v", err)
	}
	if _, err := OpenFolder(filepath.Join(dir, "nothing"), start); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open nothing: %v", err)
	}
	for name, damage := range map[string]func(string) error{
		"cut timestamp": func(d string) error { return os.Truncate(filepath.Join(d, "metadata", timestampFile), 20) },
		"no timestamp":  func(d string) error { return os.Remove(filepath.Join(d, "metadata", timestampFile)) },
		"other root":    func(d string) error { return os.WriteFile(filepath.Join(d, rootFile), []byte("{}"), 0o600) },
		"root is a folder": func(d string) error {
			return errors.Join(os.Remove(filepath.Join(d, rootFile)), os.Mkdir(filepath.Join(d, rootFile), 0o700))
		},
		"no chain": func(d string) error { return os.Remove(filepath.Join(d, "metadata", "1.root.json")) },
		"newer settings": func(d string) error {
			return os.WriteFile(filepath.Join(d, settingsFile), []byte(`{"format":2}`), 0o600)
		},
		"no settings": func(d string) error { return os.Remove(filepath.Join(d, settingsFile)) },
	} {
		d := copyFolder(t, dir)
		if err := damage(d); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenFolder(d, start); err == nil || !strings.Contains(err.Error(), d) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeyFiles(t *testing.T) {
	dir := initFolder(t)
	m := manifest(t, 1, nil, "one")
	other := initFolder(t)
	for name, tc := range map[string]struct {
		spoil func(path string) error
		want  string
		noKey bool
	}{
		"absent":      {os.Remove, "does not exist", true},
		"readable":    {func(p string) error { return os.Chmod(p, 0o644) }, "chmod 600", false},
		"another":     {func(p string) error { return copyFile(filepath.Join(other, "keys/publisher.pem"), p) }, "does not allow", true},
		"not PEM":     {func(p string) error { return os.WriteFile(p, []byte("x"), 0o600) }, "want one PEM block", false},
		"trailing":    {func(p string) error { return appendFile(p, "x") }, "want one PEM block", false},
		"too long":    {func(p string) error { return os.WriteFile(p, make([]byte, maxKeyFileBytes+1), 0o600) }, "more than", false},
		"a directory": {func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }, "directory", false},
	} {
		d := copyFolder(t, dir)
		path := filepath.Join(d, "keys", "publisher.pem")
		if err := tc.spoil(path); err != nil {
			t.Fatal(err)
		}
		f := openFolder(t, d)
		before := f.Current().Digest()
		_, err := f.AddRelease(1, m)
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path) || errors.Is(err, ErrNoKey) != tc.noKey {
			t.Errorf("%s: %v", name, err)
		}
		if f.Current().Digest() != before {
			t.Errorf("%s: the metadata has changed", name)
		}
	}
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	return errors.Join(err, os.WriteFile(to, data, 0o600))
}

func appendFile(path, s string) error {
	data, err := os.ReadFile(path)
	return errors.Join(err, os.WriteFile(path, append(data, s...), 0o600))
}

func TestAddRelease(t *testing.T) {
	dir := initFolder(t)
	f := openFolder(t, dir)
	one := manifest(t, 1, nil, "one")
	v1, err := f.AddRelease(1, one)
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.AddRelease(1, one)
	if err != nil || again.Digest() != v1.Digest() {
		t.Errorf("the same release again: %v", err)
	}
	two := manifest(t, 2, one, "two")
	for name, tc := range map[string]struct {
		n     bundle.Version
		data  []byte
		class error
		want  string
	}{
		"other content":    {1, manifest(t, 1, nil, "uno"), ErrConflict, "next number"},
		"a gap":            {3, manifest(t, 3, one, "three"), nil, "the next is 2"},
		"not a manifest":   {2, []byte("{}"), bundle.ErrInvalid, ""},
		"another number":   {2, manifest(t, 3, one, "three"), nil, "of version 3"},
		"another ancestor": {2, manifest(t, 2, two, "two"), nil, "build it again"},
		"no ancestor":      {2, manifest(t, 2, nil, "two"), nil, "build it again"},
	} {
		_, err := f.AddRelease(tc.n, tc.data)
		if err == nil || !strings.Contains(err.Error(), tc.want) || tc.class != nil && !errors.Is(err, tc.class) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if f.Current() != v1 {
		t.Error("a refused release has changed the metadata")
	}
	v2, err := f.AddRelease(2, two)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(f.FirstRoot(), v1, v2.Set()); err != nil || !Newer(v1, v2) {
		t.Errorf("a peer would refuse release 2: %v", err)
	}
	if data, ok := f.SignedRelease(2); !ok || !bytes.Equal(data, two) {
		t.Error("the manifest is not kept")
	}
	if err := f.KeepRelease(2, one); !errors.Is(err, ErrUntrusted) {
		t.Errorf("keep another manifest: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if again := openFolder(t, dir).Current(); again.Digest() != v2.Digest() {
		t.Error("the folder comes back different")
	}
}

// TestFirstReleaseMayHaveAnyNumber: nodes may run version 6 before moult comes.
func TestFirstReleaseMayHaveAnyNumber(t *testing.T) {
	f := openFolder(t, initFolder(t))
	v, err := f.AddRelease(7, manifest(t, 7, nil, "seven"))
	if err != nil || v.Head() != 7 {
		t.Fatalf("release 7 as the first: %v", err)
	}
}

func TestAddOrder(t *testing.T) {
	f := openFolder(t, initFolder(t))
	if _, err := f.AddOrder(1, 1, []byte("order")); err == nil || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("an order for no release: %v", err)
	}
	if _, err := f.AddRelease(1, manifest(t, 1, nil, "one")); err != nil {
		t.Fatal(err)
	}
	v1, err := f.AddOrder(1, 1, []byte("order 1"))
	if err != nil {
		t.Fatal(err)
	}
	if v, err := f.AddOrder(1, 1, []byte("order 1")); err != nil || v != v1 {
		t.Errorf("the same order again: %v", err)
	}
	v5, err := f.AddOrder(1, 5, []byte("order 5"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(f.FirstRoot(), v1, v5.Set()); err != nil {
		t.Errorf("a peer would refuse order 5: %v", err)
	}
	for name, tc := range map[string]struct {
		serial uint64
		data   string
		class  error
	}{
		"other content":   {5, "other", ErrConflict},
		"superseded":      {1, "order 1", ErrRollback},
		"between":         {3, "order 3", ErrRollback},
		"nothing":         {6, "", nil},
		"more than bound": {6, strings.Repeat("x", MaxOrderBytes+1), nil},
	} {
		if _, err := f.AddOrder(1, tc.serial, []byte(tc.data)); err == nil || tc.class != nil && !errors.Is(err, tc.class) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if f.Current() != v5 {
		t.Error("a refused order has changed the metadata")
	}
	if data, ok := f.SignedOrder(1, 1); !ok || string(data) != "order 1" {
		t.Error("order 1 is not kept")
	}
	if serial, data, ok := f.LastOrder(1); !ok || serial != 5 || string(data) != "order 5" {
		t.Errorf("last order: %d %q %v", serial, data, ok)
	}
	if _, _, ok := f.LastOrder(2); ok {
		t.Error("an order for release 2")
	}
	if data, ok := f.OrderInForce(1); !ok || string(data) != "order 5" {
		t.Errorf("order in force: %q %v", data, ok)
	}
	if _, ok := f.OrderInForce(2); ok {
		t.Error("an order for release 2 is in force")
	}
	if err := os.WriteFile(f.orderPath(1, 5), []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, ok := f.OrderInForce(1); ok {
		t.Errorf("order in force: %q, which nobody signed", data)
	}
}

func TestRefresh(t *testing.T) {
	dir := initFolder(t)
	f := openFolder(t, dir)
	if _, err := f.AddRelease(1, manifest(t, 1, nil, "one")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.AddOrder(1, 1, []byte("order")); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	later := start.Add(DefaultExpires + time.Hour)
	f, err := OpenFolder(dir, later)
	if err != nil {
		t.Fatalf("an expired folder must open: %v", err)
	}
	defer f.Close()
	old := f.Current()
	if !old.Expired(later) {
		t.Fatal("nothing has expired: this test shows nothing")
	}
	if err := f.Refresh(0); err != nil {
		t.Fatal(err)
	}
	v := f.Current()
	if want := (Versions{Root: 2, Timestamp: 4, Snapshot: 4, Targets: 3, Operator: 2}); v.Versions() != want {
		t.Errorf("versions %+v, want %+v", v.Versions(), want)
	}
	if want := later.Add(DefaultExpires); !v.Expires().Equal(want) {
		t.Errorf("expires %s, want %s", v.Expires(), want)
	}
	if _, err := Verify(f.FirstRoot(), old, v.Set()); err != nil {
		t.Errorf("a peer would refuse it: %v", err)
	}
	// The root is good for long enough now.
	if err := f.Refresh(time.Hour); err != nil || f.Current().Versions().Root != 2 {
		t.Errorf("refresh again: root %d, %v", f.Current().Versions().Root, err)
	}
	if want := later.Add(time.Hour); !f.Current().Expires().Equal(want) {
		t.Errorf("expires %s, want %s", f.Current().Expires(), want)
	}
	if err := f.Refresh(-time.Hour); err == nil {
		t.Error("refresh into the past")
	}
	// An operator alone extends what is the operator's.
	op, err := OpenFolder(copyFolder(t, dir, rootKey, publisherKey), later)
	if err != nil {
		t.Fatal(err)
	}
	defer op.Close()
	if err := op.Refresh(0); err != nil {
		t.Fatal(err)
	}
	if got, want := op.Current().Versions(), f.Current().Versions(); got.Targets != want.Targets || got.Operator != want.Operator+1 || got.Timestamp != want.Timestamp+1 {
		t.Errorf("an operator's refresh: %+v after %+v", got, want)
	}
	none, err := OpenFolder(copyFolder(t, dir, publisherKey, operatorKey), later)
	if err != nil {
		t.Fatal(err)
	}
	defer none.Close()
	if err := none.Refresh(0); !errors.Is(err, ErrNoKey) {
		t.Errorf("refresh without keys: %v", err)
	}
}

func TestRotate(t *testing.T) {
	dir := initFolder(t)
	f := openFolder(t, dir)
	one := manifest(t, 1, nil, "one")
	if _, err := f.AddRelease(1, one); err != nil {
		t.Fatal(err)
	}
	if _, err := f.AddOrder(1, 1, []byte("order 1")); err != nil {
		t.Fatal(err)
	}
	peer := f.Current()
	for i, rotate := range []func() error{f.RotatePublisher, f.RotateOperator, f.RotateRoot, f.RotatePublisher, f.RotateOperator} {
		name := []keyName{publisherKey, operatorKey, rootKey, publisherKey, operatorKey}[i]
		old, err := loadKey(f.keyPath(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := rotate(); err != nil {
			t.Fatalf("rotation %d (%s): %v", i, name, err)
		}
		next, err := Verify(f.FirstRoot(), peer, f.Current().Set())
		if err != nil || !Newer(peer, next) || next.Versions().Root != int64(i+2) {
			t.Fatalf("rotation %d (%s): a peer would refuse it: %v", i, name, err)
		}
		peer = next
		root, err := f.root()
		if err != nil {
			t.Fatal(err)
		}
		targets, err := f.targets()
		if err != nil {
			t.Fatal(err)
		}
		for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
			if _, ok := rootSigners(root, role)[old.id]; ok {
				t.Errorf("rotation %d (%s): the old key still signs %s", i, name, role)
			}
		}
		if _, ok := delegatedSigners(targets)[old.id]; ok {
			t.Errorf("rotation %d (%s): the old key still signs orders", i, name)
		}
	}
	if _, err := f.AddRelease(2, manifest(t, 2, one, "two")); err != nil {
		t.Errorf("release with the new keys: %v", err)
	}
	if _, err := f.AddOrder(2, 1, []byte("order 2")); err != nil {
		t.Errorf("order with the new keys: %v", err)
	}
	for _, without := range []keyName{rootKey} {
		g := openFolder(t, copyFolder(t, dir, without))
		for _, rotate := range []func() error{g.RotatePublisher, g.RotateOperator, g.RotateRoot} {
			if err := rotate(); !errors.Is(err, ErrNoKey) || !strings.Contains(err.Error(), "root") {
				t.Errorf("rotate without the root key: %v", err)
			}
		}
	}
}

// TestRevokedKey: whoever kept the old publisher key can sign nothing any more.
func TestRevokedKey(t *testing.T) {
	dir := initFolder(t)
	thief := openFolder(t, copyFolder(t, dir, rootKey, operatorKey))
	f := openFolder(t, dir)
	if err := f.RotatePublisher(); err != nil {
		t.Fatal(err)
	}
	forged, err := thief.AddRelease(1, manifest(t, 1, nil, "bad"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(f.FirstRoot(), f.Current(), forged.Set()); !errors.Is(err, ErrRollback) {
		t.Errorf("a peer that has seen the revocation: %v", err)
	}
	mixed := forged.Set()
	mixed.Roots = f.Current().Set().Roots
	if _, err := Verify(f.FirstRoot(), nil, mixed); !errors.Is(err, ErrUntrusted) {
		t.Errorf("the old key under the new root: %v", err)
	}
	before := f.Current().Digest()
	if _, err := f.Absorb(forged.Set()); err == nil {
		t.Error("the publisher vouches for a thief's release without being asked")
	}
	if f.Current().Digest() != before {
		t.Error("a refused set has changed the folder")
	}
	if _, err := thief.Absorb(f.Current().Set()); err == nil {
		t.Error("the thief's folder goes on with his release")
	}
}

// crash makes the folder's disk fail for ever from the n-th change on.
type crash struct{ left int }

var errCrash = errors.New("crash")

func (c *crash) on(d disk) disk {
	return disk{
		write: func(path string, data []byte, perm fs.FileMode) error {
			if c.left--; c.left < 0 {
				return errCrash
			}
			return d.write(path, data, perm)
		},
		rename: func(from, to string) error {
			if c.left--; c.left < 0 {
				return errCrash
			}
			return d.rename(from, to)
		},
	}
}

// quick is a disk without fsync: these tests cut between calls, and the order of
// what reaches the platter is package durable's to keep.
var quick = disk{write: os.WriteFile, rename: os.Rename}

// timestampFirst is a planted bug: it publishes the timestamp before the files
// that it names.
func timestampFirst(d disk) disk {
	var held []func() error
	return disk{rename: d.rename, write: func(path string, data []byte, perm fs.FileMode) error {
		if filepath.Base(filepath.Dir(path)) != metadataDir {
			return d.write(path, data, perm)
		}
		if filepath.Base(path) != timestampFile {
			held = append(held, func() error { return d.write(path, data, perm) })
			return nil
		}
		err := d.write(path, data, perm)
		for _, write := range held {
			err = errors.Join(err, write())
		}
		return err
	}}
}

// TestCrash cuts every operation after each of its changes on disk. The folder
// must open again with the old metadata or the new, and the operation must
// succeed when it is done again.
func TestCrash(t *testing.T) {
	inFull(t)
	t.Parallel()
	if found := crashes(t, func(d disk) disk { return d }); len(found) > 0 {
		t.Error(strings.Join(found, "\n"))
	}
	if found := crashes(t, timestampFirst); len(found) == 0 {
		t.Error("writing the timestamp first was not found: this test shows nothing")
	}
}

func crashes(t *testing.T, order func(disk) disk) (found []string) {
	base := initFolder(t)
	f := openFolder(t, base)
	one := manifest(t, 1, nil, "one")
	if _, err := f.AddRelease(1, one); err != nil {
		t.Fatal(err)
	}
	if _, err := f.AddOrder(1, 1, []byte("order 1")); err != nil {
		t.Fatal(err)
	}
	other := openFolder(t, copyFolder(t, base))
	if _, err := other.AddRelease(2, manifest(t, 2, one, "two")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.AddOrder(1, 2, []byte("order 2")); err != nil {
		t.Fatal(err)
	}
	start := f.Current()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func(*Folder) error{
		"release":          func(f *Folder) error { _, err := f.AddRelease(2, manifest(t, 2, one, "two")); return err },
		"order":            func(f *Folder) error { _, err := f.AddOrder(1, 3, []byte("order 3")); return err },
		"absorb":           func(f *Folder) error { _, err := f.Absorb(other.Current().Set()); return err },
		"refresh":          func(f *Folder) error { return f.Refresh(3 * DefaultExpires) },
		"rotate publisher": (*Folder).RotatePublisher,
		"rotate operator":  (*Folder).RotateOperator,
		"rotate root":      (*Folder).RotateRoot,
	} {
		for n := 0; ; n++ {
			dir := copyFolder(t, base)
			done, err := crashOnce(dir, n, start, do, order)
			if err != nil {
				found = append(found, fmt.Sprintf("%s cut after %d changes: %v", name, n, err))
			}
			if done {
				break
			}
		}
	}
	return found
}

// crashOnce reports whether the operation needed no more than n changes.
func crashOnce(dir string, n int, old *Verified, do func(*Folder) error, order func(disk) disk) (done bool, err error) {
	f, err := OpenFolder(dir, start)
	if err != nil {
		return true, err
	}
	c := &crash{left: n}
	f.disk = order(c.on(quick))
	err = do(f)
	done = c.left >= 0
	if closeErr := f.Close(); closeErr != nil || done && err != nil || !done && err == nil {
		return done, fmt.Errorf("the operation: %v, close: %v", err, closeErr)
	}
	again, err := OpenFolder(dir, start)
	if err != nil {
		return done, err
	}
	defer again.Close()
	again.disk = quick
	v := again.Current()
	if _, err := Verify(again.FirstRoot(), old, v.Set()); err != nil {
		return done, fmt.Errorf("it went back: %w", err)
	}
	if err := do(again); err != nil {
		return done, fmt.Errorf("done again: %w", err)
	}
	if _, err := Verify(again.FirstRoot(), v, again.Current().Set()); err != nil {
		return done, fmt.Errorf("done again it went back: %w", err)
	}
	for _, suffix := range []string{pendingSuffix, nextSuffix} {
		if left, err := filepath.Glob(filepath.Join(dir, "*", "*"+suffix)); err != nil || len(left) > 0 {
			return done, fmt.Errorf("left over: %v %v", left, err)
		}
	}
	return done, nil
}

// Who belongs to the cluster is one more document of the operator's, which another takes
// the place of, and which is never taken back.
func TestAddMembers(t *testing.T) {
	f := openFolder(t, initFolder(t))
	if _, ok := f.SignedMembers(); ok {
		t.Error("members before anybody signed them")
	}
	v, err := f.AddMembers([]byte("m1"))
	if err != nil {
		t.Fatal(err)
	}
	if ref, ok := v.Members(); !ok || ref.Ref != refOf([]byte("m1")) || ref.Serial != 1 || len(v.Orders()) != 0 {
		t.Errorf("in force are %v %v", ref, ok)
	}
	again, err := f.AddMembers([]byte("m1"))
	if err != nil || again.Digest() != v.Digest() {
		t.Errorf("signed again: %v", err)
	}
	first := v
	if v, err = f.AddMembers([]byte("m2")); err != nil {
		t.Fatal(err)
	}
	if got, ok := f.SignedMembers(); !ok || string(got) != "m2" {
		t.Errorf("signed are %q", got)
	}
	if err := f.KeepMembers([]byte("m1")); !errors.Is(err, ErrUntrusted) {
		t.Errorf("kept what is not in force: %v", err)
	}
	for name, doc := range map[string][]byte{"empty": nil, "too long": make([]byte, MaxMembersBytes+1)} {
		if _, err := f.AddMembers(doc); err == nil {
			t.Errorf("%s is signed", name)
		}
	}
	set := v.Set()
	if _, err := Verify(f.FirstRoot(), first, set); err != nil {
		t.Errorf("a peer does not take it: %v", err)
	}
	if _, err := Verify(f.FirstRoot(), v, first.Set()); !errors.Is(err, ErrRollback) {
		t.Errorf("a peer goes back: %v", err)
	}
}

// A node that is kept at what was in force before a pause starts nothing new once the
// timestamp has expired. Who keeps that fresh needs the operator's key alone.
func TestKeepFresh(t *testing.T) {
	dir := initFolder(t)
	f := openFolder(t, dir)
	added(t, f, 1, "one")
	year, short := start.Add(DefaultExpires), 2*time.Hour
	if got := f.Current().Expires(); !got.Equal(year) {
		t.Fatalf("good until %s, want %s", got, year)
	}
	if err := f.KeepFresh(short); err != nil {
		t.Fatal(err)
	}
	running, err := f.AddOrder(1, 1, []byte("running"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := running.Expires(), start.Add(short); !got.Equal(want) {
		t.Fatalf("an order is good until %s, want %s", got, want)
	}
	frozen := running
	alone := copyFolder(t, dir, rootKey, publisherKey)
	for hours := time.Duration(1); hours <= 3; hours++ {
		now := start.Add(hours * time.Hour)
		k, err := OpenFolder(alone, now)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Refresh(0); err != nil {
			t.Fatalf("after %d hours: %v", hours, err)
		}
		v := k.Current()
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		if want := now.Add(short); !v.Expires().Equal(want) {
			t.Errorf("refreshed after %d hours: good until %s, want %s", hours, v.Expires(), want)
		}
		if running, err = Verify(f.FirstRoot(), running, v.Set()); err != nil {
			t.Errorf("after %d hours a peer refuses it: %v", hours, err)
		}
		if frozen.Expired(now) != (hours > 2) {
			t.Errorf("after %d hours: what the frozen peer has counts as expired: %v", hours, frozen.Expired(now))
		}
	}
	if err := f.KeepFresh(-time.Second); err == nil {
		t.Error("took a time below 0")
	}
	for _, lasts := range []time.Duration{0, 2 * DefaultExpires} { // none longer than the rest
		if err := f.KeepFresh(lasts); err != nil {
			t.Fatal(err)
		}
		if err := f.Refresh(0); err != nil {
			t.Fatal(err)
		}
		if got := f.Current().Expires(); !got.Equal(year) {
			t.Errorf("fresh for %s: good until %s, want %s", lasts, got, year)
		}
	}
}

// What older programs do not know they refuse by the number of the format.
func TestSettingsFormats(t *testing.T) {
	dir := initFolder(t)
	f := openFolder(t, dir)
	for _, c := range []struct {
		fresh time.Duration
		want  string
	}{{0, `{"format":1,"expires":"8760h0m0s"}`}, {time.Hour, `{"format":2,"expires":"8760h0m0s","fresh":"1h0m0s"}`}, {0, `{"format":1,"expires":"8760h0m0s"}`}} {
		if err := f.KeepFresh(c.fresh); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, settingsFile)); err != nil || strings.TrimSpace(string(got)) != c.want {
			t.Errorf("%s, %v, want %s", got, err, c.want)
		}
		if err := f.readSettings(); err != nil {
			t.Error(err)
		}
	}
	for text, want := range map[string]string{
		`{"format":3,"expires":"1h"}`:               "format 3, this moult knows up to format 2",
		`{"format":0,"expires":"1h"}`:               "format 0",
		`{"format":2,"expires":"1h","fresh":"-1h"}`: "timestamps cannot expire",
	} {
		if err := os.WriteFile(filepath.Join(dir, settingsFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := f.readSettings(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		f.settings = settings{}
	}
}

// A root is signed anew before anybody is warned, but not at every refresh.
func TestRootLeft(t *testing.T) {
	const day = 24 * time.Hour
	for expires, want := range map[time.Duration]time.Duration{
		DefaultExpires: DefaultExpires / 2, 40 * day: 30 * day, 20 * day: 15 * day, 4 * time.Hour: 3 * time.Hour,
	} {
		if got := rootLeft(expires); got != want {
			t.Errorf("of %v: %v, want %v", expires, got, want)
		}
	}
}
