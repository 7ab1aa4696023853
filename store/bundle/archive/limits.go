package archive

import (
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Bounds of a bundle file. Blobs need none of their own: the signed manifest
// gives the length of each.
const (
	// maxMetadataBytes bounds the metadata files of a bundle together, before
	// package trust, which has finer bounds, sees them.
	maxMetadataBytes = trust.MaxSetBytes
	// MaxDocumentBytes bounds the manifests and orders of a bundle together.
	// They are held in memory.
	MaxDocumentBytes = 64 << 20
	// bufferBytes is what Open and Write read and write at once, and copyBytes
	// what they hash.
	bufferBytes = 256 << 10
	copyBytes   = 32 << 10
)

// Bounds of an artifact, enforced when it is packed and when it is extracted.
const (
	// MaxEntries bounds its files and folders together.
	MaxEntries = 100_000
	// MaxTreeBytes bounds the contents of its files together.
	MaxTreeBytes = bundle.MaxArtifactBytes
	// MaxFileBytes bounds one file: what a ustar header can say.
	MaxFileBytes = 8<<30 - 1
	// MaxPathBytes bounds a file's path in the artifact, MaxNameBytes one
	// element of it, and MaxPathDepth their number.
	MaxPathBytes = 512
	MaxNameBytes = 255
	MaxPathDepth = 64
)
