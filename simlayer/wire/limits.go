package wire

const (
	// maxChunkLine bounds the line before a chunk, in bytes.
	maxChunkLine = 256
	// maxChunk bounds a chunk before its last digit, so that no size overflows.
	maxChunk = 1 << 56
	// maxTrailer bounds a trailer, in bytes.
	maxTrailer = 64 << 10
	// MaxStreams bounds the streams of one connection that are open at once.
	MaxStreams = 4096
	// MaxBlock bounds a header block that is collected, in bytes, with the headers of
	// its frames; keptBlock what is kept of its memory for the next one.
	MaxBlock  = 64 << 10
	keptBlock = 2 << 10
)
