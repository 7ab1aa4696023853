package artifact

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"moult/store/bundle"
)

// Remove removes an artifact, whole or partial, with its folder. One that is
// being assembled is not removed: ErrBusy.
func (d *Depot) Remove(digest bundle.Digest) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[digest] != nil {
		return fmt.Errorf("remove artifact %s: %w", digest.Short(), ErrBusy)
	}
	// The chunk table goes last: while it is there, the rest is not forgotten.
	err := d.discard(d.path(digest, ""))
	for _, suffix := range []string{".tar", ".partial", ".chunks"} {
		if rerr := os.Remove(d.path(digest, suffix)); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	if err != nil {
		return fmt.Errorf("remove artifact %s: %w", digest.Short(), err)
	}
	d.forget(digest)
	return nil
}

// Sweep removes every artifact and blob that keep does not name, except
// artifacts that are being assembled, and returns how many it has removed.
func (d *Depot) Sweep(keep []bundle.Digest) (removed int, err error) {
	kept := make(map[bundle.Digest]bool, len(keep))
	for _, digest := range keep {
		kept[digest] = true
	}
	doomed := map[bundle.Digest]bool{}
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return 0, fmt.Errorf("sweep depot: %w", err)
	}
	for _, e := range entries {
		for _, suffix := range []string{"", ".tar", ".partial", ".chunks"} {
			if digest, ok := digestOf(e.Name(), suffix); ok && !kept[digest] {
				doomed[digest] = true
			}
		}
	}
	var errs []error
	for digest := range doomed {
		switch err := d.Remove(digest); {
		case err == nil:
			removed++
		case !errors.Is(err, ErrBusy):
			errs = append(errs, err)
		}
	}
	blobs, err := os.ReadDir(d.blobsPath())
	errs = append(errs, err)
	for _, e := range blobs {
		if digest, ok := digestOf(e.Name(), ""); ok && !kept[digest] {
			err := d.removeBlob(digest)
			errs = append(errs, err)
			if err == nil {
				removed++
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return removed, fmt.Errorf("sweep depot: %w", err)
	}
	return removed, nil
}
