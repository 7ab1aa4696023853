package artifact

import "moult/store/bundle"

const (
	// MaxBlob bounds a blob, in bytes. Manifests are the largest.
	MaxBlob = 16 << 20
	// maxTable bounds a chunk table's file, in bytes: at most
	// bundle.MaxChunks, about 110 bytes each.
	maxTable = 120*bundle.MaxChunks + 4<<10
	// maxArtifacts bounds how many artifacts a depot has at once.
	maxArtifacts = 1000
)
