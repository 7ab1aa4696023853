package artifact

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"moult/store/bundle"
	"moult/store/durable"
)

// Errors that callers tell apart.
var (
	// ErrDamaged means that the disk does not hold what was written to it.
	// Begin and Finish mend an artifact; a blob is fetched again.
	ErrDamaged = errors.New("damaged on disk")
	// ErrUnknown means that the depot has no such artifact.
	ErrUnknown = errors.New("not in the depot")
	// ErrBusy means that the artifact is being assembled already.
	ErrBusy = errors.New("being assembled already")
	// ErrFull means that Options.MaxBytes, or the disk, has no room for it.
	ErrFull = errors.New("no room")
)

// Options of Open. The zero value is good.
type Options struct {
	// Log receives what was found damaged; nil is silent.
	Log *slog.Logger
	// MaxBytes bounds what the depot holds, in bytes, an artifact counting
	// twice (packed and unpacked); 0 is no bound.
	MaxBytes int64
	// CheckSpace returns an error unless the disk of dir has need bytes free;
	// nil checks nothing.
	CheckSpace func(dir string, need int64) error
}

// Depot is an open depot. Its methods may be called concurrently.
type Depot struct {
	dir        string
	log        *slog.Logger
	maxBytes   int64
	checkSpace func(dir string, need int64) error

	// unpacking is held by the one unpack that runs.
	unpacking sync.Mutex

	// mu guards the following.
	mu        sync.Mutex
	artifacts map[bundle.Digest]*held
	// places tells where a chunk lies in whole tars.
	places    map[bundle.Digest][]place
	open      map[bundle.Digest]*Assembly
	blobBytes int64
}

// held is one artifact that the depot has in any state.
type held struct {
	art     bundle.Artifact
	whole   bool // the tar is there
	damaged bool // and a read of it, or of its folder, found something wrong
}

// place is where a chunk lies.
type place struct {
	in     *held
	offset int64
	length int64
}

// Open opens the depot in dir, which it makes if only the last element is
// missing. The caller makes sure that one process at a time does so.
func Open(dir string, o Options) (*Depot, error) {
	d := &Depot{dir: dir, log: o.Log, maxBytes: o.MaxBytes, checkSpace: o.CheckSpace,
		artifacts: map[bundle.Digest]*held{}, places: map[bundle.Digest][]place{}, open: map[bundle.Digest]*Assembly{}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.checkSpace == nil {
		d.checkSpace = func(string, int64) error { return nil }
	}
	for _, p := range []string{dir, d.blobsPath()} {
		if err := os.Mkdir(p, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("open depot: %w", err)
		}
	}
	if err := d.load(); err != nil {
		return nil, fmt.Errorf("open depot %s: %w", dir, err)
	}
	return d, nil
}

// load reads what is there and removes what a dead process left unfinished.
func (d *Depot) load() error {
	for _, dir := range []string{d.dir, d.blobsPath()} {
		if err := removeTemporary(dir); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		digest, ok := digestOf(e.Name(), ".chunks")
		if !ok {
			continue
		}
		art, err := readTable(d.path(digest, ".chunks"), digest)
		if err != nil {
			// Without its table an artifact can only be assembled anew, which
			// uses the bytes that are there.
			d.log.Warn("chunk table unreadable", "artifact", digest.Short(), "err", err)
			continue
		}
		h := &held{art: art}
		fi, err := os.Stat(d.path(digest, ".tar"))
		if err == nil && fi.Size() == art.Length {
			h.whole = true
		}
		d.keep(h)
	}
	d.blobBytes, err = folderBytes(d.blobsPath())
	return err
}

// keep makes h known. Callers hold mu, or are alone.
func (d *Depot) keep(h *held) {
	d.forget(h.art.Digest)
	d.artifacts[h.art.Digest] = h
	if !h.whole {
		return
	}
	var offset int64
	for _, c := range h.art.Chunks {
		d.places[c.Digest] = append(d.places[c.Digest], place{h, offset, c.Length})
		offset += c.Length
	}
}

// forget is the reverse of keep.
func (d *Depot) forget(digest bundle.Digest) {
	h, ok := d.artifacts[digest]
	if !ok {
		return
	}
	delete(d.artifacts, digest)
	for _, c := range h.art.Chunks {
		left := slices.DeleteFunc(d.places[c.Digest], func(p place) bool { return p.in == h })
		if len(left) == 0 {
			delete(d.places, c.Digest)
			continue
		}
		d.places[c.Digest] = left
	}
}

// Dir returns the folder of an unpacked artifact, and whether it is there. It
// does not look inside: Ensure does.
func (d *Depot) Dir(digest bundle.Digest) (string, bool) {
	dir := d.path(digest, "")
	fi, err := os.Stat(dir)
	return dir, err == nil && fi.IsDir()
}

// Has reports whether the whole tar is there and not known to be damaged.
func (d *Depot) Has(digest bundle.Digest) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	h, ok := d.artifacts[digest]
	return ok && h.whole && !h.damaged
}

// Damaged returns the artifacts in which damage has been found since Open.
func (d *Depot) Damaged() []bundle.Digest {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ds []bundle.Digest
	for digest, h := range d.artifacts {
		if h.damaged {
			ds = append(ds, digest)
		}
	}
	slices.SortFunc(ds, func(a, b bundle.Digest) int { return strings.Compare(a.Hex(), b.Hex()) })
	return ds
}

// Have tells which chunks of an artifact are here: bit i, from the lowest bit
// of byte 0, is chunk i of its table, and chunks is their number. ok is false
// for an artifact that is neither here nor being assembled.
func (d *Depot) Have(digest bundle.Digest) (bits []byte, chunks int, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.open[digest]; a != nil {
		bits, chunks = a.bits()
		return bits, chunks, true
	}
	h, ok := d.artifacts[digest]
	if !ok || !h.whole || h.damaged {
		return nil, 0, false
	}
	chunks = len(h.art.Chunks)
	bits = make([]byte, (chunks+7)/8)
	for i := range chunks {
		bits[i/8] |= 1 << (i % 8)
	}
	return bits, chunks, true
}

// Chunk returns the bytes of a chunk, verified, from a whole artifact or from
// one that is being assembled, and whether it is here. The error tells of a
// chunk that is here but cannot be had; one that wraps ErrDamaged, of bytes
// that have changed.
func (d *Depot) Chunk(digest bundle.Digest) (data []byte, ok bool, err error) {
	d.mu.Lock()
	places := slices.Clone(d.places[digest])
	assemblies := make([]*Assembly, 0, len(d.open))
	for _, a := range d.open {
		assemblies = append(assemblies, a)
	}
	d.mu.Unlock()
	for _, p := range places {
		data, ok, rerr := d.readPlace(p, digest)
		if ok {
			return data, true, nil
		}
		err = errors.Join(err, rerr)
	}
	for _, a := range assemblies {
		data, ok, rerr := a.chunk(digest)
		if ok {
			return data, true, nil
		}
		err = errors.Join(err, rerr)
	}
	if err != nil {
		return nil, false, fmt.Errorf("chunk %s: %w", digest.Short(), err)
	}
	return nil, false, nil
}

// readPlace reads and verifies one chunk of a whole tar. Neither ok nor an
// error: it was removed meanwhile.
func (d *Depot) readPlace(p place, digest bundle.Digest) (data []byte, ok bool, err error) {
	name := d.path(p.in.art.Digest, ".tar")
	f, err := os.Open(name)
	if err == nil {
		data, err = readVerified(f, p.offset, p.length, digest)
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		return data, true, nil
	}
	if !d.known(p.in) {
		return nil, false, nil
	}
	err = fmt.Errorf("%s at byte %d: %w", name, p.offset, err)
	d.markDamaged(p.in, err)
	return nil, false, err
}

func readVerified(f io.ReaderAt, offset, length int64, digest bundle.Digest) ([]byte, error) {
	data := make([]byte, length)
	if n, err := f.ReadAt(data, offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	} else if int64(n) < length || bundle.Sum(data) != digest {
		return nil, ErrDamaged
	}
	return data, nil
}

func (d *Depot) known(h *held) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.artifacts[h.art.Digest] == h
}

func (d *Depot) markDamaged(h *held, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !h.damaged {
		h.damaged = true
		d.log.Error("artifact damaged", "artifact", h.art.Digest.Short(), "err", err)
	}
}

// Bytes is what the depot holds, an artifact counting twice (packed and unpacked).
func (d *Depot) Bytes() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used()
}

// used returns what the depot holds, in bytes, by its own way of counting.
// Callers hold mu.
func (d *Depot) used() int64 {
	n := d.blobBytes
	for _, h := range d.artifacts {
		n += 2 * h.art.Length
	}
	return n
}

// room checks that n more bytes may be kept. Callers hold mu.
func (d *Depot) room(n int64) error {
	if used := d.used(); d.maxBytes > 0 && n > d.maxBytes-used {
		return fmt.Errorf("%d bytes are needed, the depot %s holds %d of the %d that it may: %w; remove an old release or raise the limit",
			n, d.dir, used, d.maxBytes, ErrFull)
	}
	if err := d.checkSpace(d.dir, n); err != nil {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return nil
}

func (d *Depot) path(digest bundle.Digest, suffix string) string {
	return filepath.Join(d.dir, digest.Hex()+suffix)
}

func (d *Depot) blobsPath() string { return filepath.Join(d.dir, "blobs") }

// temporary is how the names of unfinished work begin.
const temporary = ".tmp-"

// removeTemporary also takes what durable.WriteFile leaves behind when it dies.
func removeTemporary(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func folderBytes(dir string) (n int64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() {
			n += fi.Size()
		}
	}
	return n, nil
}

// digestOf reads the digest out of a file's name.
func digestOf(name, suffix string) (d bundle.Digest, ok bool) {
	text, ok := strings.CutSuffix(name, suffix)
	if !ok || len(text) != 2*len(d) || text != strings.ToLower(text) {
		return d, false
	}
	_, err := hex.Decode(d[:], []byte(text))
	return d, err == nil
}

func writeTable(path string, a bundle.Artifact) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, b, 0o644)
}

func readTable(path string, digest bundle.Digest) (bundle.Artifact, error) {
	b, err := durable.ReadFile(path, maxTable)
	if err != nil {
		return bundle.Artifact{}, err
	}
	var a bundle.Artifact
	if err := json.Unmarshal(b, &a); err != nil {
		return bundle.Artifact{}, fmt.Errorf("%s: %w", path, err)
	}
	if a.Digest != digest {
		return bundle.Artifact{}, fmt.Errorf("%s: it is of another artifact, %s", path, a.Digest.Short())
	}
	return a, checkTable(a)
}

// checkTable refuses a table that cannot be a tar's. A release that was
// verified never has one.
func checkTable(a bundle.Artifact) error {
	if len(a.Chunks) == 0 || len(a.Chunks) > bundle.MaxChunks || a.Digest.IsZero() {
		return fmt.Errorf("artifact %s: %d chunks, want 1 to %d", a.Digest.Short(), len(a.Chunks), bundle.MaxChunks)
	}
	var sum int64
	for i, c := range a.Chunks {
		if c.Length < 1 || c.Length > bundle.MaxChunkBytes || c.Digest.IsZero() {
			return fmt.Errorf("artifact %s: chunk %d has %d bytes, want 1 to %d", a.Digest.Short(), i, c.Length, int64(bundle.MaxChunkBytes))
		}
		sum += c.Length
	}
	if sum != a.Length || sum > bundle.MaxArtifactBytes {
		return fmt.Errorf("artifact %s: its chunks have %d bytes, it %d, at most %d are allowed", a.Digest.Short(), sum, a.Length, int64(bundle.MaxArtifactBytes))
	}
	return nil
}
