package artifact

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"moult/store/bundle"
	"moult/store/durable"
)

// PutBlob stores a small document and returns its name. It is durable when it
// returns nil. data remains the caller's.
func (d *Depot) PutBlob(data []byte) (bundle.Chunk, error) {
	c := bundle.Chunk{Digest: bundle.Sum(data), Length: int64(len(data))}
	if len(data) > MaxBlob {
		return c, fmt.Errorf("blob %s of %d bytes: at most %d are kept", c.Digest.Short(), len(data), MaxBlob)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	path := d.blobPath(c.Digest)
	var before int64
	if fi, err := os.Stat(path); err == nil {
		if old, err := durable.ReadFile(path, MaxBlob); err == nil && bundle.Sum(old) == c.Digest {
			return c, nil
		}
		before = fi.Size()
	}
	if err := d.room(c.Length - before); err != nil {
		return c, fmt.Errorf("store blob %s: %w", c.Digest.Short(), err)
	}
	if err := durable.WriteFile(path, data, 0o644); err != nil {
		return c, fmt.Errorf("store blob %s: %w", c.Digest.Short(), err)
	}
	d.blobBytes += c.Length - before
	return c, nil
}

// Blob returns a blob's bytes, verified, and whether it is here. A blob whose
// bytes have changed is removed, so that it is missing from then on; the error
// wraps ErrDamaged that once.
func (d *Depot) Blob(digest bundle.Digest) (data []byte, ok bool, err error) {
	data, err = durable.ReadFile(d.blobPath(digest), MaxBlob)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, nil
	case err == nil && bundle.Sum(data) == digest:
		return data, true, nil
	case isPathError(err):
		return nil, false, fmt.Errorf("read blob %s: %w", digest.Short(), err)
	}
	err = fmt.Errorf("blob %s: %w", digest.Short(), ErrDamaged)
	d.log.Error("blob damaged", "err", err)
	return nil, false, errors.Join(err, d.removeBlob(digest))
}

// ReadBlob reads a blob of the depot in dir, which another process may have open, and changes
// nothing there. One that is damaged counts as one that is not there.
func ReadBlob(dir string, digest bundle.Digest) (data []byte, ok bool, err error) {
	data, err = durable.ReadFile((&Depot{dir: dir}).blobPath(digest), MaxBlob)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return data, err == nil && bundle.Sum(data) == digest, err
}

// HasBlob reports whether a blob is here, without looking inside.
func (d *Depot) HasBlob(digest bundle.Digest) bool {
	fi, err := os.Stat(d.blobPath(digest))
	return err == nil && fi.Mode().IsRegular()
}

// BlobPath is the file of a blob, for programs that read it; it is there where
// Blob has just returned it.
func (d *Depot) BlobPath(digest bundle.Digest) string { return d.blobPath(digest) }

func (d *Depot) removeBlob(digest bundle.Digest) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	path := d.blobPath(digest)
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	d.blobBytes -= fi.Size()
	return nil
}

func (d *Depot) blobPath(digest bundle.Digest) string {
	return filepath.Join(d.blobsPath(), digest.Hex())
}

func isPathError(err error) bool {
	_, ok := errors.AsType[*fs.PathError](err)
	return ok
}
