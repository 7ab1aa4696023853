package grpckv

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Store keeps the values in memory and, whole, in one file. It is safe for
// concurrent use by one process.
type Store struct {
	path string

	mu     sync.Mutex
	values map[string]string // mu
}

// OpenStore opens the state in dir, which is made if it is missing.
func OpenStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	s := &Store{path: filepath.Join(dir, "values.json"), values: map[string]string{}}
	data, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &s.values); err != nil {
		return nil, fmt.Errorf("read the state in %s: %w", s.path, err)
	}
	return s, nil
}

// Get returns the value of a key, if it has one.
func (s *Store) Get(key string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[key]
	return value, ok
}

// Keys returns all keys, sorted.
func (s *Store) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.values))
}

// Change lets f change a copy of the values, which takes their place once it is
// durable. Where f returns an error nothing changes.
func (s *Store) Change(f func(values map[string]string) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	values := maps.Clone(s.values)
	if err := f(values); err != nil {
		return err
	}
	if err := write(s.path, values); err != nil {
		return fmt.Errorf("keep the values: %w", err)
	}
	s.values = values
	return nil
}

// write replaces the file at path: temp, write, sync, rename, sync the folder.
func write(path string, values map[string]string) (err error) {
	data, err := json.Marshal(values)
	if err != nil {
		return err
	}
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
