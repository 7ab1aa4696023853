package artifact

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"moult/store/bundle"
	"moult/store/durable"
)

// Assembly puts one artifact together. Its methods may be called concurrently.
// It must end with Finish or Close; what it has got stays on the disk for the
// next Begin.
type Assembly struct {
	depot *Depot
	art   bundle.Artifact
	// at tells at which indexes of the table a chunk stands, offset where in
	// the tar the chunk at an index begins.
	at     map[bundle.Digest][]int
	offset []int64

	// mu guards the following.
	mu      sync.Mutex
	file    *os.File // nil when the tar is whole, or after Close
	have    []bool   // by index
	bytes   int64
	writers sync.WaitGroup // Add only under mu, while file is set and something is missing
	readers sync.WaitGroup // Add only under mu, while file is set
}

// Begin starts, or resumes, the assembly of an artifact, which must come from a
// verified manifest. It hashes what an earlier assembly left, copies the chunks
// that other artifacts here have, and so may take as long as reading all that
// from the disk. ErrBusy: it is being assembled already; ErrFull: there is no
// room.
func (d *Depot) Begin(a bundle.Artifact) (*Assembly, error) {
	if err := checkTable(a); err != nil {
		return nil, err
	}
	as := &Assembly{depot: d, art: a, have: make([]bool, len(a.Chunks)),
		at: make(map[bundle.Digest][]int, len(a.Chunks)), offset: make([]int64, len(a.Chunks))}
	var end int64
	for i, c := range a.Chunks {
		as.at[c.Digest] = append(as.at[c.Digest], i)
		as.offset[i] = end
		end += c.Length
	}
	whole, err := d.reserve(as)
	if err != nil {
		return nil, fmt.Errorf("assemble artifact %s: %w", a.Digest.Short(), err)
	}
	if whole {
		for i := range as.have {
			as.have[i] = true
		}
		as.bytes = a.Length
		return as, nil
	}
	if err := as.begin(); err != nil {
		return nil, errors.Join(fmt.Errorf("assemble artifact %s: %w", a.Digest.Short(), err), as.Close())
	}
	return as, nil
}

// Assembling returns the assembly of an artifact that was begun and has not ended, nil
// for none. Chunks may be put into it; it stays its owner's to finish and to close.
func (d *Depot) Assembling(digest bundle.Digest) *Assembly {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open[digest]
}

// reserve takes the artifact for as and its room. whole: there is nothing to
// assemble.
func (d *Depot) reserve(as *Assembly) (whole bool, err error) {
	digest := as.art.Digest
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[digest] != nil {
		return false, ErrBusy
	}
	h := d.artifacts[digest]
	if h != nil && h.whole && !h.damaged {
		return true, nil
	}
	if h == nil {
		if len(d.artifacts) >= maxArtifacts {
			return false, fmt.Errorf("there are %d artifacts already: %w; sweep the depot", len(d.artifacts), ErrFull)
		}
		if err := d.room(2 * as.art.Length); err != nil {
			return false, err
		}
	}
	d.keep(&held{art: as.art})
	d.open[digest] = as
	return false, nil
}

func (as *Assembly) begin() error {
	d, digest := as.depot, as.art.Digest
	if err := writeTable(d.path(digest, ".chunks"), as.art); err != nil {
		return err
	}
	// A tar that is there without being known as whole and good is raw
	// material like any partial one.
	partial := d.path(digest, ".partial")
	if err := os.Rename(d.path(digest, ".tar"), partial); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	as.mu.Lock()
	as.file = f
	as.mu.Unlock()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if err := f.Truncate(as.art.Length); err != nil {
		return err
	}
	if fi.Size() > 0 {
		if err := as.rehash(f, fi.Size()); err != nil {
			return err
		}
	}
	return as.copyKnown()
}

// rehash finds out which chunks the first size bytes hold.
func (as *Assembly) rehash(f *os.File, size int64) error {
	for i, c := range as.art.Chunks {
		if as.offset[i]+c.Length > size {
			return nil
		}
		_, err := readVerified(f, as.offset[i], c.Length, c.Digest)
		if err != nil && !errors.Is(err, ErrDamaged) {
			return err
		}
		as.set(i, err == nil)
	}
	return nil
}

// copyKnown takes what other artifacts have.
func (as *Assembly) copyKnown() error {
	for _, c := range as.Missing() {
		as.depot.mu.Lock()
		known := len(as.depot.places[c.Digest]) > 0
		as.depot.mu.Unlock()
		if !known {
			continue
		}
		data, ok, _ := as.depot.Chunk(c.Digest) // what cannot be read here is fetched
		if !ok {
			continue
		}
		if err := as.Put(c.Digest, data); err != nil {
			return err
		}
	}
	return nil
}

// Artifact returns what is being assembled.
func (as *Assembly) Artifact() bundle.Artifact { return as.art }

// Missing returns the chunks that are still to be put, each once, in the
// order of the table.
func (as *Assembly) Missing() []bundle.Chunk {
	as.mu.Lock()
	defer as.mu.Unlock()
	var cs []bundle.Chunk
	for i, c := range as.art.Chunks {
		if !as.have[i] && as.at[c.Digest][0] == i {
			cs = append(cs, c)
		}
	}
	return cs
}

// Progress returns how many bytes are here and how many there will be.
func (as *Assembly) Progress() (have, total int64) {
	as.mu.Lock()
	defer as.mu.Unlock()
	return as.bytes, as.art.Length
}

// Put stores a chunk after it has verified it. A chunk that is here already is
// no error. data remains the caller's.
func (as *Assembly) Put(digest bundle.Digest, data []byte) error {
	at := as.at[digest]
	if len(at) == 0 {
		return fmt.Errorf("chunk %s is not of artifact %s", digest.Short(), as.art.Digest.Short())
	}
	if bundle.Sum(data) != digest {
		return fmt.Errorf("chunk %s of artifact %s: the bytes have another digest", digest.Short(), as.art.Digest.Short())
	}
	as.mu.Lock()
	if as.have[at[0]] {
		as.mu.Unlock()
		return nil
	}
	f := as.file
	if f == nil {
		as.mu.Unlock()
		return fmt.Errorf("artifact %s: its assembly is closed", as.art.Digest.Short())
	}
	as.writers.Add(1)
	as.mu.Unlock()
	defer as.writers.Done()

	for _, i := range at {
		if _, err := f.WriteAt(data, as.offset[i]); err != nil {
			return fmt.Errorf("write chunk %s of artifact %s: %w", digest.Short(), as.art.Digest.Short(), err)
		}
		as.set(i, true)
	}
	return nil
}

// set notes whether the chunk at an index is here.
func (as *Assembly) set(i int, have bool) {
	as.mu.Lock()
	defer as.mu.Unlock()
	if as.have[i] == have {
		return
	}
	as.have[i] = have
	if have {
		as.bytes += as.art.Chunks[i].Length
	} else {
		as.bytes -= as.art.Chunks[i].Length
	}
}

// bits is Have for an open assembly.
func (as *Assembly) bits() ([]byte, int) {
	as.mu.Lock()
	defer as.mu.Unlock()
	bits := make([]byte, (len(as.have)+7)/8)
	for i, have := range as.have {
		if have {
			bits[i/8] |= 1 << (i % 8)
		}
	}
	return bits, len(as.have)
}

// chunk reads one chunk back.
func (as *Assembly) chunk(digest bundle.Digest) ([]byte, bool, error) {
	at := as.at[digest]
	if len(at) == 0 {
		return nil, false, nil
	}
	as.mu.Lock()
	if as.file == nil || !as.have[at[0]] {
		as.mu.Unlock()
		return nil, false, nil
	}
	f := as.file
	as.readers.Add(1)
	as.mu.Unlock()
	defer as.readers.Done()
	data, err := readVerified(f, as.offset[at[0]], as.art.Chunks[at[0]].Length, digest)
	if errors.Is(err, ErrDamaged) {
		for _, i := range at {
			as.set(i, false) // to be fetched again
		}
	}
	return data, err == nil, err
}

// Close ends the assembly without finishing it. It may be called at any time,
// also after Finish, and more than once.
func (as *Assembly) Close() error {
	as.mu.Lock()
	f := as.file
	as.file = nil
	as.mu.Unlock()
	as.writers.Wait()
	as.readers.Wait()
	as.depot.mu.Lock()
	if as.depot.open[as.art.Digest] == as {
		delete(as.depot.open, as.art.Digest)
	}
	as.depot.mu.Unlock()
	if f == nil {
		return nil
	}
	return f.Close()
}

// Finish verifies the whole tar, makes it durable, unpacks it and returns its
// folder. The assembly is closed unless the error says that chunks are missing,
// also because the disk has lost some: fetch them and call Finish again.
func (as *Assembly) Finish() (string, error) {
	d, digest := as.depot, as.art.Digest
	if err := as.settle(); err != nil {
		if len(as.Missing()) == 0 {
			err = errors.Join(err, as.Close())
		}
		return "", fmt.Errorf("finish artifact %s: %w", digest.Short(), err)
	}
	if err := as.Close(); err != nil {
		return "", fmt.Errorf("finish artifact %s: %w", digest.Short(), err)
	}
	if dir, ok := d.Dir(digest); ok {
		return dir, nil
	}
	return d.unpack(digest)
}

// settle turns the partial tar into the whole one, unless it is that already.
func (as *Assembly) settle() error {
	if n := len(as.Missing()); n > 0 {
		return fmt.Errorf("%d chunks are missing", n)
	}
	as.mu.Lock()
	f := as.file
	as.mu.Unlock()
	if f == nil {
		if as.depot.Has(as.art.Digest) {
			return nil
		}
		return errors.New("the assembly is closed")
	}
	as.writers.Wait()
	if err := as.verify(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return as.publish()
}

// publish makes the partial tar the artifact's tar.
func (as *Assembly) publish() error {
	d, digest := as.depot, as.art.Digest
	if err := durable.Rename(d.path(digest, ".partial"), d.path(digest, ".tar")); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keep(&held{art: as.art, whole: true})
	return nil
}

// verify compares the tar with its digest. If it differs, the chunks that have
// changed on the disk are missing again.
func (as *Assembly) verify(f *os.File) error {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, as.art.Length)); err != nil {
		return err
	}
	if bundle.Digest(h.Sum(nil)) == as.art.Digest {
		return nil
	}
	if err := as.rehash(f, as.art.Length); err != nil {
		return err
	}
	if n := len(as.Missing()); n > 0 {
		return fmt.Errorf("%w: %d chunks changed after they were written; fetch them again", ErrDamaged, n)
	}
	return errors.New("its chunks do not make up the tar that the release names; the release is unusable, ask its publisher")
}
