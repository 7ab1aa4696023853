package kv2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"moult/testdata/kv/internal/disk"
	"moult/testdata/kv/internal/node"
	"moult/testdata/kv/kv1"
)

// kept is what version 1 cannot hold of a record, one file a key as the objects have. Of
// plain text that is the revision, and Sum tells whether version 1 has written since; all else
// is whole.
type kept struct {
	Key      string  `json:"key"`
	Revision int64   `json:"revision"`
	Sum      string  `json:"sum,omitempty"`
	Record   *Record `json:"record,omitempty"`
}

// Back makes a state of version 1 in the folder to out of version 2's in the folder from,
// which it only reads. What version 1 cannot hold (revisions, other types than plain text,
// that a key was deleted) it puts into the folder rest, for a later migration.
func Back(ctx context.Context, from, to, rest string) (objects int, err error) {
	if err := os.RemoveAll(filepath.Join(to, "keys")); err != nil {
		return 0, err
	}
	store, err := kv1.OpenStore(to, true)
	if err != nil {
		return 0, err
	}
	w := disk.Writer{Tmp: filepath.Join(rest, "tmp"), NoSync: true}
	if err := w.Clean(); err != nil {
		return 0, fmt.Errorf("make %s ready: %w", rest, err)
	}
	if err := w.Mkdir(filepath.Join(rest, "objects")); err != nil {
		return 0, err
	}
	err = ReadState(from, func(r Record) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		k := kept{Key: r.Key, Revision: r.Revision, Record: &r}
		if !r.Deleted && r.ContentType == defaultType {
			k.Sum, k.Record = hash(r.Value), nil
			if err := store.Set(r.Key, r.Value); err != nil {
				return err
			}
		}
		objects++
		data, err := json.Marshal(k)
		if err != nil {
			return fmt.Errorf("encode what is kept of %q: %w", r.Key, err)
		}
		path := filepath.Join(rest, "objects", objectPath(r.Key))
		if err := w.Mkdir(filepath.Dir(path)); err != nil {
			return err
		}
		return w.Replace(path, data)
	})
	return objects, err
}

// readKept calls f with all that Back has put into rest; "" is none.
func readKept(rest string, f func(kept) error) error {
	if rest == "" {
		return nil
	}
	err := filepath.WalkDir(filepath.Join(rest, "objects"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var k kept
		if err := node.DecodeJSON(data, &k); err != nil {
			return fmt.Errorf("%s is damaged: %w", path, err)
		}
		return f(k)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// again gives a record that version 1 held what is kept of it: its revision, one more where it
// was written since.
func (k kept) again(r *Record) {
	r.Revision = k.Revision
	if k.Sum != hash(r.Value) {
		r.Revision++
	}
}
