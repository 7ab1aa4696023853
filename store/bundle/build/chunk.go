package build

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // registers the algorithm

	"moult/store/bundle"
	"moult/store/bundle/archive"
)

// chunking is FastCDC as published, in the version of the library that will not
// change its cuts. Other cuts would not be wrong, but cost peers the chunks that
// they could have reused.
const chunking = "fastcdc-v1.0.0"

// packed is an artifact's tar in a temporary file, cut.
type packed struct {
	archive.PackStats
	bundle.Artifact
	file *os.File
}

// blobs returns the chunks as content for archive.Write.
func (p *packed) blobs() []archive.Blob {
	var all []archive.Blob
	offset := int64(0)
	for _, c := range p.Chunks {
		all = append(all, archive.Blob{Chunk: c, Content: io.NewSectionReader(p.file, offset, c.Length)})
		offset += c.Length
	}
	return all
}

// pack makes the artifact at path into a tar in dir. The caller closes the file.
func pack(ctx context.Context, dir, path string, a ArtifactSpec, o Options) (_ *packed, err error) {
	p := &packed{}
	if p.file, err = os.CreateTemp(dir, "artifact-*.tar"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.file.Close())
		}
	}()
	packing := o.meter("packing "+filepath.Base(path), sizeOf(path))
	packing.w = p.file
	if p.PackStats, err = archive.Pack(ctx, packing, path, a.Name); err != nil {
		return nil, err
	}
	cutting := o.meter("cutting "+filepath.Base(path), packing.done)
	cutting.r = p.file
	if _, err = p.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	p.Platform = a.Platform
	hash := sha256.New()
	if p.Chunks, err = cut(ctx, io.TeeReader(cutting, hash)); err != nil {
		return nil, fmt.Errorf("cut %s into chunks: %w", path, err)
	}
	p.Digest = bundle.Digest(hash.Sum(nil))
	for _, c := range p.Chunks {
		p.Length += c.Length
	}
	return p, nil
}

// sizeOf is about how long the tar of a file or folder will be; 0 where that cannot be told:
// what is wrong with it, packing will say.
func sizeOf(path string) (n int64) {
	err := filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && e.Type().IsRegular() {
			n += info.Size()
		}
		return err
	})
	if err != nil {
		return 0
	}
	return n
}

// cut returns the chunks of r, which depend on its content alone.
func cut(ctx context.Context, r io.Reader) ([]bundle.Chunk, error) {
	chunker, err := chunkers.NewChunker(chunking, r, &chunkers.ChunkerOpts{
		MinSize: minChunkBytes, NormalSize: normalChunkBytes, MaxSize: maxChunkBytes,
	})
	if err != nil {
		return nil, err
	}
	var chunks []bundle.Chunk
	err = chunker.Split(func(_, length uint, data []byte) error {
		if length > 0 { // the last call may have nothing
			chunks = append(chunks, bundle.Chunk{Digest: bundle.Sum(data), Length: int64(length)})
		}
		return ctx.Err()
	})
	return chunks, err
}
