package archive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Bundle is a bundle that Open has verified whole. It is immutable and may be
// used by several goroutines at once, as far as its io.ReaderAt may.
type Bundle struct {
	trust     *trust.Verified
	docs      Docs
	manifests map[bundle.Version]*bundle.Manifest
	r         io.ReaderAt
	blobs     []bundle.Chunk // by rising digest
	offsets   []int64        // of blobs in r
}

// Trust returns the verified metadata.
func (b *Bundle) Trust() *trust.Verified { return b.trust }

// Head returns the manifest of the newest release: the one whose blobs the
// bundle carries. The caller must not change it.
func (b *Bundle) Head() *bundle.Manifest { return b.manifests[b.trust.Head()] }

// Manifests returns the manifests that the bundle carries, a new map of shared
// manifests.
func (b *Bundle) Manifests() map[bundle.Version]*bundle.Manifest {
	return maps.Clone(b.manifests)
}

// ManifestBytes returns a release's manifest as it was signed, or nil where the
// bundle does not carry it. The caller must not change it.
func (b *Bundle) ManifestBytes(n bundle.Version) []byte { return b.docs.Manifests[n] }

// Order returns the rollout order for a release as it was signed. The caller
// must not change it.
func (b *Bundle) Order(n bundle.Version) ([]byte, bool) {
	data, ok := b.docs.Orders[n]
	return data, ok
}

// Blobs returns what the bundle carries beside documents, by rising digest.
func (b *Bundle) Blobs() []bundle.Chunk { return slices.Clone(b.blobs) }

// Blob returns a blob's content. Open has verified it; whoever keeps it checks
// it again, for the file below may have changed since.
func (b *Bundle) Blob(d bundle.Digest) (*io.SectionReader, bool) {
	i, found := slices.BinarySearchFunc(b.blobs, bundle.Chunk{Digest: d}, compareChunks)
	if !found {
		return nil, false
	}
	return io.NewSectionReader(b.r, b.offsets[i], b.blobs[i].Length), true
}

// Contents returns what Write takes to make the same bundle again, or, with
// newer metadata for the same release and an order added, one that says more.
// The maps are the caller's.
func (b *Bundle) Contents() (Docs, []Blob) {
	blobs := make([]Blob, len(b.blobs))
	for i, c := range b.blobs {
		blobs[i] = Blob{Chunk: c, Content: io.NewSectionReader(b.r, b.offsets[i], c.Length)}
	}
	return Docs{Manifests: maps.Clone(b.docs.Manifests), Orders: maps.Clone(b.docs.Orders)}, blobs
}

// Open reads and verifies a bundle of size bytes: the metadata as trust.Verify
// does, with firstRoot and prev as there; every document against the metadata;
// every blob against the newest manifest. It refuses whatever Write would not
// have written. See the package documentation. One thing is left to whoever
// assembles an artifact: that its chunks in order have its digest.
//
// Errors are ErrCorrupt, those of package trust, and, for manifests of a later
// moult, bundle.ErrTooNew; other errors are r's own. On an error nothing of the
// bundle may be used.
func Open(r io.ReaderAt, size int64, firstRoot []byte, prev *trust.Verified) (*Bundle, error) {
	return open(r, size, func(set trust.Set) (*trust.Verified, error) {
		return trust.Verify(firstRoot, prev, set)
	})
}

// ErrTooLong is a bundle of more bytes than Receive takes.
var ErrTooLong = errors.New("the bundle is too long")

// Receive takes a bundle of at most most bytes whole into a file, and opens it there: the
// file is its reader, until ctx ends.
func Receive(ctx context.Context, f *os.File, r io.Reader, most int64, firstRoot []byte) (*Bundle, error) {
	size, err := io.Copy(f, io.LimitReader(until{ctx: ctx, Reader: r}, most+1))
	if err != nil {
		return nil, fmt.Errorf("receive the bundle: %w", err)
	}
	if size > most {
		return nil, fmt.Errorf("receive the bundle: %w: it has more than %d bytes", ErrTooLong, most)
	}
	return Open(until{ctx: ctx, ReaderAt: f}, size, firstRoot, nil)
}

// until reads until ctx ends.
type until struct {
	ctx context.Context
	io.Reader
	io.ReaderAt
}

func (u until) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.Reader.Read(p)
}

func (u until) ReadAt(p []byte, off int64) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.ReaderAt.ReadAt(p, off)
}

func open(r io.ReaderAt, size int64, verify func(trust.Set) (*trust.Verified, error)) (*Bundle, error) {
	o := opener{
		in:   bufio.NewReaderSize(io.NewSectionReader(r, 0, size), int(min(size, bufferBytes))),
		size: size,
		b: &Bundle{
			r:         r,
			docs:      Docs{Manifests: map[bundle.Version][]byte{}, Orders: map[bundle.Version][]byte{}},
			manifests: map[bundle.Version]*bundle.Manifest{},
		},
	}
	if err := o.open(verify); err != nil {
		return nil, fmt.Errorf("open bundle: %w", err)
	}
	return o.b, nil
}

// opener walks through the entries. The order of the entries is fixed, so at
// every point it knows what may come next.
type opener struct {
	in   *bufio.Reader
	size int64
	b    *Bundle

	pos    int64  // of the next byte of in
	at     int64  // of the current entry's header
	name   string // of the current entry; empty after the last
	length int64  // of the current entry's content
	total  int64  // bytes of documents read so far
}

func (o *opener) open(verify func(trust.Set) (*trust.Verified, error)) error {
	if err := o.next(); err != nil {
		return err
	}
	set, err := o.metadata()
	if err != nil {
		return err
	}
	if o.b.trust, err = verify(set); err != nil {
		return err
	}
	o.total = 0
	if err := o.releases(); err != nil {
		return err
	}
	if err := o.orders(); err != nil {
		return err
	}
	return o.blobs()
}

// metadata reads the entries that say what else may be there.
func (o *opener) metadata() (trust.Set, error) {
	var set trust.Set
	for len(set.Roots) < trust.MaxRoots && o.name == numbered(rootsPrefix, uint64(len(set.Roots)+1)) {
		data, err := o.document(maxMetadataBytes)
		if err != nil {
			return set, err
		}
		set.Roots = append(set.Roots, data)
	}
	if len(set.Roots) == 0 {
		return set, o.unexpected(numbered(rootsPrefix, 1))
	}
	for _, role := range []struct {
		name string
		to   *[]byte
	}{
		{timestampName, &set.Timestamp}, {snapshotName, &set.Snapshot},
		{targetsName, &set.Targets}, {operatorName, &set.Operator},
	} {
		if o.name != role.name {
			if role.name == operatorName {
				break // there was no order yet
			}
			return set, o.unexpected(role.name)
		}
		data, err := o.document(maxMetadataBytes)
		if err != nil {
			return set, err
		}
		*role.to = data
	}
	return set, nil
}

// releases reads the manifests, the newest of which must be there.
func (o *opener) releases() error {
	v := o.b.trust
	for last := bundle.Version(0); strings.HasPrefix(o.name, releasePrefix); {
		n, ok := parseNumbered(releasePrefix, o.name)
		ref, named := v.Release(n)
		if !ok || !named || n <= last {
			return o.unexpected("a release that the metadata names, in order")
		}
		data, err := o.signed(ref, bundle.MaxManifestBytes)
		if err != nil {
			return err
		}
		if o.b.manifests[n], err = parseManifest(v, n, data); err != nil {
			return fmt.Errorf("manifest of release %d: %w", n, err)
		}
		o.b.docs.Manifests[n] = data
		last = n
	}
	if o.b.Head() == nil {
		return o.unexpected(numbered(releasePrefix, uint64(v.Head())))
	}
	return nil
}

// parseManifest checks what the metadata does not say: that the manifest is of
// the release that it is signed for, and continues the one before.
func parseManifest(v *trust.Verified, n bundle.Version, data []byte) (*bundle.Manifest, error) {
	m, err := bundle.ParseManifest(data)
	if err != nil {
		return nil, err
	}
	if m.Version != n {
		return nil, fmt.Errorf("%w: it says that it is of release %d", ErrCorrupt, m.Version)
	}
	previous, _ := v.Release(n - 1) // zero before the first release
	if m.Previous != previous.Digest {
		return nil, fmt.Errorf("%w: it continues release %d of digest %q, but the signed one has %q", ErrCorrupt, n-1, m.Previous, previous.Digest)
	}
	return m, nil
}

func (o *opener) orders() error {
	for last := bundle.Version(0); strings.HasPrefix(o.name, orderPrefix); {
		n, ok := parseNumbered(orderPrefix, o.name)
		ref, named := o.b.trust.Order(n)
		if !ok || !named || n <= last {
			return o.unexpected("a rollout order that the metadata names, in order")
		}
		data, err := o.signed(ref, trust.MaxOrderBytes)
		if err != nil {
			return err
		}
		o.b.docs.Orders[n] = data
		last = n
	}
	return nil
}

// blobs reads the rest: what the newest manifest names, no more and no less.
func (o *opener) blobs() error {
	hash, buffer := sha256.New(), make([]byte, copyBytes)
	for _, want := range requiredBlobs(o.b.Head()) {
		if o.name != blobName(want.Digest) {
			return o.unexpected(blobName(want.Digest))
		}
		if err := o.checkLength(want.Length); err != nil {
			return err
		}
		o.b.blobs = append(o.b.blobs, want)
		o.b.offsets = append(o.b.offsets, o.pos)
		hash.Reset()
		switch n, err := io.CopyBuffer(hash, io.LimitReader(o.in, o.length), buffer); {
		case err != nil:
			return o.readError(err)
		case n < o.length:
			return o.readError(io.ErrUnexpectedEOF)
		}
		o.pos += o.length
		if got := bundle.Digest(hash.Sum(nil)); got != want.Digest {
			return o.corrupt("its content has the digest %s", got)
		}
		if err := o.finish(); err != nil {
			return err
		}
	}
	if o.name != "" {
		return o.unexpected("the end")
	}
	return nil
}

// signed reads the current entry, which the metadata names as ref.
func (o *opener) signed(ref trust.Ref, most int64) ([]byte, error) {
	if err := o.checkLength(ref.Length); err != nil {
		return nil, err
	}
	at, name := o.at, o.name
	data, err := o.document(most)
	if err != nil {
		return nil, err
	}
	if got := bundle.Sum(data); got != ref.Digest {
		return nil, fmt.Errorf("%w: %s at byte %d: its digest is %s, the metadata says %s", ErrCorrupt, name, at, got, ref.Digest)
	}
	return data, nil
}

// document reads the current entry's content and goes on to the next entry.
func (o *opener) document(most int64) ([]byte, error) {
	limit := int64(MaxDocumentBytes)
	if o.b.trust == nil {
		limit = maxMetadataBytes
	}
	if o.length < 1 || o.length > most || o.length > limit-o.total {
		return nil, o.corrupt("%d bytes, want 1 to %d, and at most %d for all of its kind", o.length, most, limit)
	}
	// The size is inside the file's own (see next), so this allocates no more
	// than somebody took the trouble to send.
	data := make([]byte, o.length)
	if _, err := io.ReadFull(o.in, data); err != nil {
		return nil, o.readError(err)
	}
	o.pos += o.length
	o.total += o.length
	return data, o.finish()
}

// finish reads the current entry's padding and the next header.
func (o *opener) finish() error {
	var padding [blockBytes]byte
	p := padding[:roundUp(o.pos)-o.pos]
	if _, err := io.ReadFull(o.in, p); err != nil {
		return o.readError(err)
	}
	for _, b := range p {
		if b != 0 {
			return o.corrupt("its padding is not zero")
		}
	}
	o.pos += int64(len(p))
	return o.next()
}

// next reads a header, or the end of the file.
func (o *opener) next() error {
	var block [blockBytes]byte
	o.at = o.pos
	if _, err := io.ReadFull(o.in, block[:]); err != nil {
		return o.readError(err)
	}
	o.pos += blockBytes
	if block == [blockBytes]byte{} {
		return o.trailer()
	}
	name, size, err := parseHeader(&block)
	if err != nil {
		return fmt.Errorf("%w: byte %d: %w", ErrCorrupt, o.at, err)
	}
	o.name, o.length = name, size
	if size > o.size-o.pos {
		return o.readError(io.ErrUnexpectedEOF)
	}
	return nil
}

// trailer reads the second of the two zero blocks, with which the file ends.
func (o *opener) trailer() error {
	var block [blockBytes]byte
	if _, err := io.ReadFull(o.in, block[:]); err != nil {
		return o.readError(err)
	}
	o.pos += blockBytes
	if block != [blockBytes]byte{} || o.pos != o.size {
		return fmt.Errorf("%w: something follows its end at byte %d", ErrCorrupt, o.at)
	}
	o.name, o.length = "", 0
	return nil
}

func (o *opener) checkLength(want int64) error {
	if o.length != want {
		return o.corrupt("it has %d bytes, %d were signed for", o.length, want)
	}
	return nil
}

// corrupt tells what is wrong with the current entry.
func (o *opener) corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s at byte %d: %s", ErrCorrupt, o.name, o.at, fmt.Sprintf(format, args...))
}

func (o *opener) unexpected(want string) error {
	got := fmt.Sprintf("%q", o.name)
	if o.name == "" {
		got = "the end"
	}
	return fmt.Errorf("%w: byte %d: want %s, got %s", ErrCorrupt, o.at, want, got)
}

// readError tells a file that is too short from one that cannot be read.
func (o *opener) readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: cut short: it ends at byte %d, inside or before an entry", ErrCorrupt, o.size)
	}
	return fmt.Errorf("read at byte %d: %w", o.pos, err)
}
