package kv2

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"moult/testdata/kv/internal/disk"
	"moult/testdata/kv/kv1"
)

// Migrate makes a state of version 2 in the folder to out of version 1's in
// the folder from, which it only reads. It returns how many objects it made.
// What an earlier, interrupted run left in to is made anew.
func Migrate(ctx context.Context, from, to string) (objects int, err error) {
	return MigrateWith(ctx, from, to, "", "", "")
}

// MigrateWith is Migrate where simulation objects keep state: see types.go. future
// is the folder of what the future object knows, past the one for what the past
// object is to know, rest of what Back has kept; "" is none.
func MigrateWith(ctx context.Context, from, to, future, past, rest string) (objects int, err error) {
	// The caller syncs the whole folder once, which costs far less.
	w := disk.Writer{Tmp: filepath.Join(to, "tmp"), NoSync: true}
	if err := startOver(to, w); err != nil {
		return 0, fmt.Errorf("make %s ready: %w", to, err)
	}
	known := map[string]kept{}
	if err := readKept(rest, func(k kept) error { known[k.Key] = k; return nil }); err != nil {
		return 0, fmt.Errorf("read what was kept in %s: %w", rest, err)
	}
	objectsDir := filepath.Join(to, "objects")
	err = kv1.ReadState(from, func(key string, old []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		r := Record{Key: key, Revision: 1}
		r.Value, r.ContentType = encode(old)
		if err := r.retype(future, past); err != nil {
			return err
		}
		if k, ok := known[key]; ok {
			k.again(&r)
			delete(known, key)
		}
		objects++
		return r.write(w, objectsDir)
	})
	for _, k := range known {
		switch {
		case err != nil:
		case k.Record == nil:
			err = fmt.Errorf("key %q is gone, and version 1 deletes none", k.Key)
		default:
			objects++
			err = k.Record.write(w, objectsDir)
		}
	}
	if err != nil {
		return objects, err
	}
	// FORMAT comes last: nobody takes a folder without it for a state.
	return objects, w.Replace(filepath.Join(to, "FORMAT"), []byte(format))
}

// startOver makes to ready for objects.
func startOver(to string, w disk.Writer) error {
	for _, name := range []string{"FORMAT", "objects"} {
		if err := os.RemoveAll(filepath.Join(to, name)); err != nil {
			return err
		}
	}
	if err := w.Clean(); err != nil {
		return err
	}
	return w.Mkdir(filepath.Join(to, "objects"))
}
