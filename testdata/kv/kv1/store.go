package kv1

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"moult/testdata/kv/internal/disk"
	"moult/testdata/kv/internal/node"
)

// Store keeps the values. It is safe for concurrent use by one process.
type Store struct {
	keys string
	disk disk.Writer
}

// errMissing means that this node does not have a key.
var errMissing = errors.New("not found")

// OpenStore opens the state in dir, or makes one where dir is empty or
// missing.
func OpenStore(dir string, noSync bool) (*Store, error) {
	s := &Store{
		keys: filepath.Join(dir, "keys"),
		disk: disk.Writer{Tmp: filepath.Join(dir, "tmp"), NoSync: noSync},
	}
	if err := s.prepare(dir); err != nil {
		return nil, fmt.Errorf("open state in %s: %w", dir, err)
	}
	return s, nil
}

func (s *Store) prepare(dir string) error {
	if format, err := os.ReadFile(filepath.Join(dir, "FORMAT")); err == nil {
		return fmt.Errorf("it was written by another version (FORMAT says %q); run that version", strings.TrimSpace(string(format)))
	}
	if err := s.disk.Clean(); err != nil {
		return err
	}
	if err := s.disk.Mkdir(s.keys); err != nil {
		return err
	}
	return s.disk.SyncDir(dir)
}

// Get returns the value of a key, or errMissing.
func (s *Store) Get(key string) (string, error) {
	value, err := os.ReadFile(s.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return "", errMissing
	}
	return string(value), err
}

// Set gives a key a value.
func (s *Store) Set(key, value string) error {
	return s.disk.Replace(s.path(key), []byte(value))
}

// Adopt is Set for a value that a peer had: one that this node got meanwhile
// from a client stays. It returns the value that the key now has.
func (s *Store) Adopt(key, value string) (string, error) {
	created, err := s.disk.Create(s.path(key), []byte(value))
	if err != nil || created {
		return value, err
	}
	return s.Get(key)
}

// Keys returns all keys, sorted.
func (s *Store) Keys() ([]string, error) {
	return listKeys(s.keys)
}

// ReadState calls f with every key of the state in dir, in order, and what its
// file holds. It changes nothing. An empty folder is a state without keys, as
// it is to OpenStore.
func ReadState(dir string, f func(key string, value []byte) error) error {
	if empty, err := disk.IsEmpty(dir); err == nil && empty {
		return nil
	}
	folder := filepath.Join(dir, "keys")
	keys, err := listKeys(folder)
	if err != nil {
		return fmt.Errorf("read the state of version 1 in %s: %w", dir, err)
	}
	for _, key := range keys {
		value, err := os.ReadFile(filepath.Join(folder, node.EscapeKey(key)))
		if err != nil {
			return fmt.Errorf("read the state of version 1: %w", err)
		}
		if err := f(key, value); err != nil {
			return fmt.Errorf("key %q: %w", key, err)
		}
	}
	return nil
}

// listKeys returns the keys that have a file in folder, sorted.
func listKeys(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	keys := make([]string, 0, len(entries))
	for _, e := range entries {
		key, err := node.UnescapeKey(e.Name())
		if err != nil || !e.Type().IsRegular() {
			return nil, fmt.Errorf("%s is no file of kv", filepath.Join(folder, e.Name()))
		}
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys, nil
}

func (s *Store) path(key string) string { return filepath.Join(s.keys, node.EscapeKey(key)) }
