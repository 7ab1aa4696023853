package artifact

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/durable"
)

// Verify reads the whole unpacked folder of an artifact and returns an error
// that wraps ErrDamaged unless it is, to the last name, bit and executable
// bit, what the digest stands for: nothing changed, missing or added.
//
// The tar depends on nothing but that (archive.Pack), so packing the folder
// again must give the digest again.
func (d *Depot) Verify(ctx context.Context, digest bundle.Digest) error {
	dir, ok := d.Dir(digest)
	if !ok {
		return fmt.Errorf("artifact %s: its folder %s: %w", digest.Short(), dir, ErrUnknown)
	}
	h := sha256.New()
	_, err := archive.Pack(ctx, h, dir, "")
	if errors.Is(err, archive.ErrUnfit) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err == nil && bundle.Digest(h.Sum(nil)) != digest {
		err = fmt.Errorf("%w: something in it was changed, added or removed", ErrDamaged)
	}
	if err != nil {
		return fmt.Errorf("artifact %s: its folder %s: %w", digest.Short(), dir, err)
	}
	return nil
}

// Ensure returns the folder of an artifact after Verify has found it good; a
// folder that is missing or damaged is unpacked again from the tar first.
// Agents call it before they start the software. When it returns an error that
// wraps ErrDamaged or ErrUnknown, Begin and Finish bring the artifact back.
func (d *Depot) Ensure(ctx context.Context, digest bundle.Digest) (string, error) {
	verr := d.Verify(ctx, digest)
	if verr == nil {
		return d.path(digest, ""), nil
	}
	if !errors.Is(verr, ErrDamaged) && !errors.Is(verr, ErrUnknown) {
		return "", verr
	}
	if !d.Has(digest) {
		return "", verr
	}
	if errors.Is(verr, ErrDamaged) {
		d.log.Error("unpacking again", "err", verr)
	}
	return d.unpack(digest)
}

// unpack lays the tar out beside the artifact's folder and, when the bytes
// that it has unpacked had the right digest, puts it in the folder's place.
func (d *Depot) unpack(digest bundle.Digest) (dir string, err error) {
	d.unpacking.Lock()
	defer d.unpacking.Unlock()
	tmp, err := os.MkdirTemp(d.dir, temporary+"unpack-*")
	if err != nil {
		return "", fmt.Errorf("unpack artifact %s: %w", digest.Short(), err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := d.extract(digest, tmp); err != nil {
		return "", fmt.Errorf("unpack artifact %s: %w", digest.Short(), err)
	}
	dir = d.path(digest, "")
	if err := d.discard(dir); err != nil {
		return "", fmt.Errorf("unpack artifact %s: %w", digest.Short(), err)
	}
	if err := durable.Rename(tmp, dir); err != nil {
		return "", fmt.Errorf("unpack artifact %s: %w", digest.Short(), err)
	}
	return dir, nil
}

// extract makes tmp the content of the tar, durably.
func (d *Depot) extract(digest bundle.Digest, tmp string) (err error) {
	f, err := os.Open(d.path(digest, ".tar"))
	if errors.Is(err, fs.ErrNotExist) {
		return d.spoilt(digest, fmt.Errorf("its tar is gone: %w", ErrDamaged))
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// The software may run as another user.
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	h := sha256.New()
	err = archive.Extract(io.TeeReader(f, h), root)
	if _, cerr := io.Copy(h, f); cerr != nil {
		return cerr
	}
	if bundle.Digest(h.Sum(nil)) != digest {
		return d.spoilt(digest, fmt.Errorf("its tar: %w", ErrDamaged))
	}
	return err
}

// spoilt notes why an artifact cannot be unpacked, so that Begin brings it anew.
func (d *Depot) spoilt(digest bundle.Digest, err error) error {
	d.mu.Lock()
	held := d.artifacts[digest]
	d.mu.Unlock()
	if held != nil {
		d.markDamaged(held, err)
	}
	return err
}

// discard takes a file or folder out of the way at once, and then removes it.
func (d *Depot) discard(path string) error {
	trash, err := os.MkdirTemp(d.dir, temporary+"trash-*")
	if err != nil {
		return err
	}
	err = os.Rename(path, filepath.Join(trash, "it"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(trash))
}
