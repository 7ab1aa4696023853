package home

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"moult/store/bundle"
	"moult/store/bundle/archive"
)

// injectPrefix begins the names of the files that injections arrive in.
const injectPrefix = ".inject-"

// Arrival makes the file that an injection arrives in. The caller closes and removes it.
func (h *Home) Arrival() (*os.File, error) { return os.CreateTemp(h.cfg.Data, injectPrefix+"*") }

// RemoveArrivals clears away what injections left that a crash ended.
func (h *Home) RemoveArrivals() error {
	left, err := filepath.Glob(filepath.Join(h.cfg.Data, injectPrefix+"*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("clear away an unfinished injection: %w", err)
		}
	}
	return nil
}

// Taken returns the bytes of artifacts that bundles have brought since Open.
func (h *Home) Taken() int64 { return h.taken.Load() }

// Keep stores what a bundle brings: documents, rules and every platform's artifact, so
// that other peers can fetch them here.
func (h *Home) Keep(ctx context.Context, opened *archive.Bundle) error {
	var need int64
	for _, c := range opened.Blobs() {
		need += c.Length
	}
	if err := h.Store.CheckSpace(3*need + spareDisk); err != nil {
		return err
	}
	for n := range opened.Manifests() {
		if _, err := h.Depot.PutBlob(opened.ManifestBytes(n)); err != nil {
			return err
		}
	}
	for _, cu := range opened.Head().Classes {
		for _, blob := range cu.ObjectFiles() {
			if err := h.Depot.TakeBlob(opened, blob); err != nil {
				return err
			}
		}
	}
	for _, art := range opened.Head().Software() {
		had := h.Depot.Has(art.Digest)
		if err := h.Depot.TakeArtifact(ctx, opened, art); err != nil {
			return fmt.Errorf("artifact %s: %w", art.Digest.Short(), err)
		}
		if !had {
			h.taken.Add(art.Length)
		}
	}
	return nil
}

// Has reports that all that a bundle of this manifest brings is here.
func (h *Home) Has(m *bundle.Manifest, digest bundle.Digest) bool {
	for _, art := range m.Software() {
		if !h.Depot.Has(art.Digest) {
			return false
		}
	}
	for _, cu := range m.Classes {
		for _, blob := range cu.ObjectFiles() {
			if !h.Depot.HasBlob(blob.Digest) {
				return false
			}
		}
	}
	return h.Depot.HasBlob(digest)
}
