package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"

	"moult/store/bundle"
	"moult/store/bundle/archive"
)

// TakeBlob keeps a blob of a bundle.
func (d *Depot) TakeBlob(from *archive.Bundle, blob bundle.Chunk) error {
	data, err := read(from, blob)
	if err == nil {
		_, err = d.PutBlob(data)
	}
	return err
}

// TakeArtifact keeps an artifact of a bundle. One that is being assembled already is given
// what it lacks, and is finished by whom it is for.
func (d *Depot) TakeArtifact(ctx context.Context, from *archive.Bundle, art bundle.Artifact) error {
	asm, err := d.Begin(art)
	if errors.Is(err, ErrBusy) {
		if fetching := d.Assembling(art.Digest); fetching != nil {
			return fetching.take(ctx, from)
		}
		asm, err = d.Begin(art) // it has ended just now
	}
	if err != nil {
		return err
	}
	if err = asm.take(ctx, from); err == nil {
		_, err = asm.Finish()
	}
	return errors.Join(err, asm.Close())
}

// take puts what is missing.
func (as *Assembly) take(ctx context.Context, from *archive.Bundle) error {
	for _, c := range as.Missing() {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		data, err := read(from, c)
		if err != nil {
			return err
		}
		if err := as.Put(c.Digest, data); err != nil {
			return err
		}
	}
	return nil
}

func read(b *archive.Bundle, c bundle.Chunk) ([]byte, error) {
	r, ok := b.Blob(c.Digest)
	if !ok {
		return nil, fmt.Errorf("the bundle lacks %s", c.Digest.Short())
	}
	data := make([]byte, c.Length)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("read %s from the bundle: %w", c.Digest.Short(), err)
	}
	return data, nil
}
