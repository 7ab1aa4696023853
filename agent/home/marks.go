package home

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"moult/store"
	"moult/store/bundle"
	"moult/store/durable"
)

// Files of the data folder that say what the next start must know of it.
const (
	restoredFile = "restored.json" // it lacks what the node has signed since, or may
	apartFile    = "apart.json"    // what [node.Node.Apart] says
	// restoringFile: a backup is being put there, and half of it is no node.
	restoringFile = "restoring.json"
)

// Restoring is why no agent may start in a data folder; nil where it may.
func Restoring(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, restoringFile)); err == nil {
		return fmt.Errorf("data folder %s: a backup was put there, and not all of it: type the `moult restore` again that was interrupted", dir)
	}
	return nil
}

// BeginRestore says that a backup is put into a data folder that has no node, or half of that
// backup, which what tells from others.
func BeginRestore(dir string, what bundle.Digest) error {
	return store.WhileClosed(dir, func() error {
		path := filepath.Join(dir, restoringFile)
		if begun, err := durable.ReadFile(path, maxMarkFile); err == nil {
			if string(begun) != what.String() {
				return errors.New("half of another backup is there: move that folder away")
			}
			return nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, part := range []string{IdentityFile, "floor.json", "db", "state"} {
			if _, err := os.Lstat(filepath.Join(dir, part)); !errors.Is(err, fs.ErrNotExist) {
				return errors.Join(err, fmt.Errorf("there is a node, or some of one (%s): move that folder away; what it has promised since, and its peers do not know, would be lost", part))
			}
		}
		return durable.WriteFile(path, []byte(what.String()), 0o600)
	})
}

// EndRestore says that all of it is there.
func EndRestore(dir string) error { return removeMark(dir, restoringFile) }

// mark is what is in them.
type mark struct {
	Why string    `json:"why"`
	At  time.Time `json:"at"`
}

// readMark returns what a mark says; "" where there is none. One that cannot be read counts.
func readMark(dir, file string) (why string, err error) {
	data, err := durable.ReadFile(filepath.Join(dir, file), maxMarkFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	var m mark
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		return fmt.Sprintf("%s cannot be read", file), nil
	}
	return m.Why, nil
}

func writeMark(dir, file, why string, now time.Time) error {
	data, err := json.Marshal(mark{why, now.UTC().Truncate(time.Second)})
	if err == nil {
		err = durable.WriteFile(filepath.Join(dir, file), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note in the data folder %s that %s: %w", dir, why, err)
	}
	return nil
}

// Restored is why the folder may lack what the node has signed, until Regained; "" where it
// does not.
func (h *Home) Restored() (string, error) { return readMark(h.cfg.Data, restoredFile) }

// Regained says that the node knows again what it has signed.
func (h *Home) Regained() error { return removeMark(h.cfg.Data, restoredFile) }

// Part has the next start know what this one says by [node.Node.Apart].
func (h *Home) Part(why string) error { return writeMark(h.cfg.Data, apartFile, why, h.now()) }

func removeMark(dir, file string) error {
	err := os.Remove(filepath.Join(dir, file))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return durable.SyncDir(dir)
	}
	return err
}

// Claim says of a data folder that no agent has that it is the node, and why it may lack what
// the node has signed: the next agent takes that back from its peers before it does anything.
func Claim(dir, why string, now time.Time) error {
	return store.WhileClosed(dir, func() error {
		return errors.Join(writeMark(dir, restoredFile, why, now), removeMark(dir, apartFile))
	})
}
