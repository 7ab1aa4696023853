package kv3

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"moult/testdata/kv/internal/disk"
	"moult/testdata/kv/kv2"
)

// Migrate makes a state of version 3 in the folder to out of version 2's in
// the folder from, which it only reads. It returns how many objects it made.
// What an earlier, interrupted run left in to is made anew.
func Migrate(ctx context.Context, from, to string) (objects int, err error) {
	// The caller syncs the whole folder once, which costs far less.
	w := disk.Writer{Tmp: filepath.Join(to, "tmp"), NoSync: true}
	if err := startOver(to, w); err != nil {
		return 0, fmt.Errorf("make %s ready: %w", to, err)
	}
	err = kv2.ReadState(from, func(old kv2.Record) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		r := record{
			Key: old.Key, Data: old.Value, Revision: old.Revision,
			ContentType: old.ContentType, Deleted: old.Deleted,
		}
		objects++
		return r.write(w, filepath.Join(to, "objects"))
	})
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
