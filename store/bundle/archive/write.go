package archive

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Docs are the documents that a bundle carries beside its metadata, by release
// number: manifests as MarshalManifest wrote them, and rollout orders. Each
// must be the one that the metadata names.
type Docs struct{ Manifests, Orders map[bundle.Version][]byte }

// Blob is content for a bundle: Length bytes from Content, beginning at 0.
type Blob struct {
	bundle.Chunk
	Content io.ReaderAt
}

// Write writes a bundle of v's newest release to w. docs must hold at least
// that release's manifest, and blobs exactly the chunks and rules files that it
// names; their order is of no account, and the same blob may come several
// times. The content of every blob is checked while it is copied, so a file
// that changed in the meantime makes an error, not a bad bundle. The same
// arguments always make the same bytes.
func Write(w io.Writer, v *trust.Verified, docs Docs, blobs []Blob) error {
	if err := write(w, v, docs, blobs); err != nil {
		return fmt.Errorf("write bundle of release %d: %w", v.Head(), err)
	}
	return nil
}

func write(w io.Writer, v *trust.Verified, docs Docs, blobs []Blob) error {
	head, err := checkDocs(v, docs)
	if err != nil {
		return err
	}
	ordered, err := matchBlobs(requiredBlobs(head), blobs)
	if err != nil {
		return err
	}
	bw := bufio.NewWriterSize(w, bufferBytes)
	for _, d := range documents(v.Set(), docs) {
		if err := writeEntry(bw, d.name, int64(len(d.data)), func(w io.Writer) error {
			_, err := w.Write(d.data)
			return err
		}); err != nil {
			return err
		}
	}
	buffer := make([]byte, copyBytes)
	for _, b := range ordered {
		if err := writeEntry(bw, blobName(b.Digest), b.Length, func(w io.Writer) error { return copyBlob(w, b, buffer) }); err != nil {
			return err
		}
	}
	if _, err := bw.Write(make([]byte, trailerBytes)); err != nil {
		return err
	}
	return bw.Flush()
}

// checkDocs returns the newest release's manifest.
func checkDocs(v *trust.Verified, docs Docs) (*bundle.Manifest, error) {
	if v.Head() == 0 {
		return nil, errors.New("the signed metadata names no release yet: build one first")
	}
	total := 0
	for _, n := range slices.Sorted(maps.Keys(docs.Manifests)) {
		ref, ok := v.Release(n)
		if !ok || ref.Digest != bundle.Sum(docs.Manifests[n]) {
			return nil, fmt.Errorf("the manifest given for release %d is not the one that was signed", n)
		}
		total += len(docs.Manifests[n])
	}
	for _, n := range slices.Sorted(maps.Keys(docs.Orders)) {
		ref, ok := v.Order(n)
		if !ok || ref.Digest != bundle.Sum(docs.Orders[n]) {
			return nil, fmt.Errorf("the rollout order given for release %d is not the one that was signed", n)
		}
		total += len(docs.Orders[n])
	}
	if total > MaxDocumentBytes {
		return nil, fmt.Errorf("manifests and rollout orders of %d bytes, the most is %d: leave out those of old releases", total, MaxDocumentBytes)
	}
	data, ok := docs.Manifests[v.Head()]
	if !ok {
		return nil, errors.New("its manifest is missing")
	}
	return bundle.ParseManifest(data)
}

// matchBlobs returns one blob for each required one, in their order.
func matchBlobs(required []bundle.Chunk, blobs []Blob) ([]Blob, error) {
	sorted := slices.Clone(blobs)
	slices.SortStableFunc(sorted, func(a, b Blob) int { return compareChunks(a.Chunk, b.Chunk) })
	sorted = slices.CompactFunc(sorted, func(a, b Blob) bool { return a.Chunk == b.Chunk })
	for i, want := range required {
		if i == len(sorted) || compareChunks(sorted[i].Chunk, want) > 0 {
			return nil, fmt.Errorf("blob %s, which the manifest names, is missing", want.Digest)
		}
		if sorted[i].Chunk != want {
			return nil, fmt.Errorf("blob %s of %d bytes is not one that the manifest names", sorted[i].Digest, sorted[i].Length)
		}
	}
	if len(sorted) > len(required) {
		return nil, fmt.Errorf("blob %s is not one that the manifest names", sorted[len(required)].Digest)
	}
	return sorted, nil
}

type document struct {
	name string
	data []byte
}

// documents returns all entries but the blobs, in the bundle's order.
func documents(s trust.Set, docs Docs) []document {
	var all []document
	for i, data := range s.Roots {
		all = append(all, document{numbered(rootsPrefix, uint64(i+1)), data})
	}
	all = append(all, document{timestampName, s.Timestamp}, document{snapshotName, s.Snapshot}, document{targetsName, s.Targets})
	if len(s.Operator) > 0 {
		all = append(all, document{operatorName, s.Operator})
	}
	for _, n := range slices.Sorted(maps.Keys(docs.Manifests)) {
		all = append(all, document{numbered(releasePrefix, uint64(n)), docs.Manifests[n]})
	}
	for _, n := range slices.Sorted(maps.Keys(docs.Orders)) {
		all = append(all, document{numbered(orderPrefix, uint64(n)), docs.Orders[n]})
	}
	return all
}

// writeEntry writes a header, what content writes (size bytes), and padding.
func writeEntry(w io.Writer, name string, size int64, content func(io.Writer) error) error {
	h := header(name, size)
	if _, err := w.Write(h[:]); err != nil {
		return err
	}
	if err := content(w); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	_, err := w.Write(make([]byte, roundUp(size)-size))
	return err
}

func copyBlob(w io.Writer, b Blob, buffer []byte) error {
	hash := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(w, hash), io.NewSectionReader(b.Content, 0, b.Length), buffer)
	if err != nil {
		return err
	}
	if n != b.Length || bundle.Digest(hash.Sum(nil)) != b.Digest {
		return errors.New("its content has changed since it was cut: build again when nothing writes to the sources")
	}
	return nil
}
