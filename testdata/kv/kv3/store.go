package kv3

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"moult/testdata/kv/internal/disk"
	"moult/testdata/kv/internal/node"
)

// format is the content of FORMAT.
const format = "kv 3\n"

// What the store returns besides the errors of its disk.
var (
	errMissing = errors.New("not found")
	// errDeleted is errMissing for a key that was there.
	errDeleted = fmt.Errorf("%w: it was deleted", errMissing)
)

// conflictError means that the condition of a put did not hold.
type conflictError struct {
	Key      string
	Want     int64
	Revision int64 // that the key has; 0 if it does not exist
}

func (e *conflictError) Error() string {
	if e.Revision == 0 {
		return fmt.Sprintf("if_revision is %d, but %q does not exist", e.Want, e.Key)
	}
	return fmt.Sprintf("if_revision is %d, but %q is at revision %d", e.Want, e.Key, e.Revision)
}

// Store keeps the objects. It is safe for concurrent use by one process.
type Store struct {
	objects string
	disk    disk.Writer

	// shards[b] is held by whoever writes in the folder of first byte b.
	shards [256]sync.Mutex

	mu   sync.RWMutex
	live map[string]struct{} // mu; the keys that exist
}

// OpenStore opens the state in dir, or makes one where dir is empty or
// missing. It reads all of it: damage shows before the first call, not after.
func OpenStore(dir string, noSync bool) (*Store, error) {
	s := &Store{
		objects: filepath.Join(dir, "objects"),
		disk:    disk.Writer{Tmp: filepath.Join(dir, "tmp"), NoSync: noSync},
		live:    map[string]struct{}{},
	}
	if err := s.prepare(dir); err != nil {
		return nil, fmt.Errorf("open state in %s: %w", dir, err)
	}
	err := eachRecord(s.objects, func(r record) error {
		if !r.Deleted {
			s.live[r.Key] = struct{}{}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open state in %s: %w", dir, err)
	}
	return s, nil
}

func (s *Store) prepare(dir string) error {
	path := filepath.Join(dir, "FORMAT")
	got, err := os.ReadFile(path)
	switch {
	case err == nil && string(got) != format:
		return fmt.Errorf("it is of another version: %s says %q, not %q; run kv-v3 migrate", path, got, format)
	case errors.Is(err, fs.ErrNotExist):
		if err := checkFresh(dir); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	if err := s.disk.Clean(); err != nil {
		return err
	}
	if err := s.disk.Mkdir(s.objects); err != nil {
		return err
	}
	// A folder that was made just before a crash may not be durable yet.
	if err := errors.Join(s.disk.SyncDir(s.objects), s.disk.SyncDir(dir)); err != nil {
		return err
	}
	if err == nil {
		return nil
	}
	return s.disk.Replace(path, []byte(format))
}

// checkFresh refuses a folder without FORMAT that holds objects all the same.
func checkFresh(dir string) error {
	entries, err := os.ReadDir(filepath.Join(dir, "objects"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		return errors.New("it has objects but no FORMAT: a migration did not end; run kv-v3 migrate again")
	}
	return nil
}

// Get returns the object of a key, or errMissing, or errDeleted.
func (s *Store) Get(key string) (Object, error) {
	r, err := readRecord(filepath.Join(s.objects, objectPath(key)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Object{}, errMissing
	case err != nil:
		return Object{}, err
	case r.Deleted:
		return Object{}, errDeleted
	}
	return r.object(), nil
}

// Put gives a key its data, in their wire form, and returns the new revision. If
// condition is not nil the key must be at just that revision; otherwise the
// error is a *conflictError.
func (s *Store) Put(key, data, contentType string, condition *int64) (int64, error) {
	return s.change(key, func(old record) (record, error) {
		if condition != nil && (old.Deleted || old.Revision != *condition || old.Revision == 0) {
			e := &conflictError{Key: key, Want: *condition}
			if !old.Deleted {
				e.Revision = old.Revision
			}
			return record{}, e
		}
		return record{Key: key, Data: data, ContentType: contentType, Revision: old.Revision + 1}, nil
	})
}

// Delete removes a key that exists, or returns errMissing.
func (s *Store) Delete(key string) (int64, error) {
	return s.change(key, func(old record) (record, error) {
		switch {
		case old.Deleted:
			return record{}, errDeleted
		case old.Revision == 0:
			return record{}, errMissing
		}
		return record{Key: key, Revision: old.Revision + 1, Deleted: true}, nil
	})
}

// Adopt stores what a peer had for a key that this node missed. What clients
// of this node did meanwhile stays. It returns what the key now stands for.
func (s *Store) Adopt(o Object) (Object, error) {
	// A peer may not know its revision, but a key that exists has one.
	o.Revision = max(o.Revision, 1)
	_, err := s.change(o.Key, func(old record) (record, error) {
		if old.Revision > 0 {
			return record{}, fs.ErrExist
		}
		return o.record(), nil
	})
	if errors.Is(err, fs.ErrExist) {
		return s.Get(o.Key)
	}
	return o, err
}

// Keys returns the keys that exist, sorted.
func (s *Store) Keys() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	keys := slices.AppendSeq(make([]string, 0, len(s.live)), maps.Keys(s.live))
	slices.Sort(keys)
	return keys // not nil: an empty list is [] on the wire, never null
}

// change replaces a key's record by what f makes of it; f gets the zero record
// for a key that was never written.
func (s *Store) change(key string, f func(old record) (record, error)) (int64, error) {
	shard := &s.shards[shardOf(key)]
	shard.Lock()
	defer shard.Unlock()
	old, err := readRecord(filepath.Join(s.objects, objectPath(key)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	r, err := f(old)
	if err != nil {
		return 0, err
	}
	if err := r.write(s.disk, s.objects); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Deleted {
		delete(s.live, key)
	} else {
		s.live[key] = struct{}{}
	}
	return r.Revision, nil
}

func shardOf(key string) byte {
	sum := sha256.Sum256([]byte(key))
	return sum[0]
}

// objectPath returns the path of a key's file below objects.
func objectPath(key string) string {
	return filepath.Join(fmt.Sprintf("%02x", shardOf(key)), node.EscapeKey(key)+".json")
}

// readRecord returns the zero record with an error of fs.ErrNotExist for a
// file that is not there.
func readRecord(path string) (record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return record{}, err
	}
	r, err := parseRecord(data)
	if err != nil {
		return record{}, fmt.Errorf("%s is damaged: %w", path, err)
	}
	return r, nil
}

// eachRecord calls f with every record below an objects folder.
func eachRecord(objects string, f func(record) error) error {
	return filepath.WalkDir(objects, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		r, err := readRecord(path)
		if err != nil {
			return err
		}
		if rel := strings.TrimPrefix(path, objects+string(filepath.Separator)); rel != objectPath(r.Key) {
			return fmt.Errorf("%s is damaged: it holds the key %q", path, r.Key)
		}
		return f(r)
	})
}
