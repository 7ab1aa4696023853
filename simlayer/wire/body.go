package wire

import "math"

// Body follows one body. The zero Body is of no length and done.
type Body struct {
	kind BodyKind
	left int64 // of a Sized body, or of the data of the chunk
	at   chunkPart
	line int // bytes of the line so far
	data bool
	bad  bool
}

type chunkPart uint8

const (
	chunkSize chunkPart = iota // the digits
	chunkExt                   // what follows them in the line
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	trailer   // within a line of the trailer
	trailerLF // after the CR of one
	chunkDone
)

// NewBody follows a body of this kind; length is that of a Sized one.
func NewBody(kind BodyKind, length int64) Body {
	b := Body{kind: kind}
	if kind == Sized {
		b.left = length
	}
	return b
}

// Done reports whether the body has ended.
func (b *Body) Done() bool {
	switch b.kind {
	case NoBody:
		return true
	case Sized:
		return b.left == 0
	case Chunked:
		return b.at == chunkDone
	}
	return false
}

// Left is how many bytes are certain to come, whatever they are.
func (b *Body) Left() int64 {
	switch {
	case b.kind == UntilClose:
		return math.MaxInt64
	case b.kind == Sized, b.kind == Chunked && b.at == chunkData:
		return b.left
	}
	return 0
}

// Skip takes n of the bytes that are Left as having passed.
func (b *Body) Skip(n int64) {
	if b.kind == UntilClose {
		return
	}
	b.left -= n
	if b.kind == Chunked && b.at == chunkData && b.left == 0 {
		b.at = chunkDataCR
	}
}

// Feed takes the next bytes that pass and returns how many of them belong to the
// body. ok is false where they are no such body; it stays so.
func (b *Body) Feed(p []byte) (n int, ok bool) {
	switch b.kind {
	case NoBody:
		return 0, true
	case Sized:
		n = int(min(int64(len(p)), b.left))
		b.left -= int64(n)
		return n, true
	case UntilClose:
		return len(p), true
	}
	for n < len(p) && b.at != chunkDone && !b.bad {
		if b.at == chunkData {
			k := min(int64(len(p)-n), b.left)
			b.Skip(k)
			n += int(k)
			continue
		}
		b.bad = !b.step(p[n])
		n++
	}
	return n, !b.bad
}

// step takes one byte of a chunked body's framing.
func (b *Body) step(c byte) (ok bool) {
	switch b.at {
	case chunkSize, chunkExt:
		return b.sizeLine(c)
	case chunkSizeLF:
		b.at = chunkData
		if b.left == 0 {
			b.at = trailer
		}
		b.line, b.data = 0, false
		return c == '\n'
	case chunkDataCR:
		b.at = chunkDataLF
		return c == '\r'
	case chunkDataLF:
		b.at = chunkSize
		return c == '\n'
	case trailer:
		if b.line++; b.line > maxTrailer {
			return false
		}
		if c == '\r' {
			b.at = trailerLF
			return true
		}
		b.data = true
		return c != '\n'
	default: // trailerLF
		b.at = trailer
		if !b.data {
			b.at = chunkDone
		}
		b.data = false
		return c == '\n'
	}
}

// sizeLine takes one byte of the line before a chunk.
func (b *Body) sizeLine(c byte) (ok bool) {
	if b.line++; b.line > maxChunkLine {
		return false
	}
	switch {
	case c == '\r':
		b.at = chunkSizeLF
		return b.data
	case c == '\n':
		return false
	case b.at == chunkExt:
		return c >= ' ' || c == '\t'
	case c == ';':
		b.at = chunkExt
		return b.data
	}
	d := hex(c)
	if d < 0 || b.left > maxChunk {
		return false
	}
	b.left, b.data = 16*b.left+d, true
	return true
}

func hex(c byte) int64 {
	switch {
	case '0' <= c && c <= '9':
		return int64(c - '0')
	case 'a' <= c && c <= 'f':
		return int64(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int64(c-'A') + 10
	}
	return -1
}
