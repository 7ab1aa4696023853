package wire

import "golang.org/x/net/http2"

// blocks collects the header blocks of a server. All of them must be read, in their
// order, since each may change the table of headers that later ones refer to.
type blocks struct {
	frame   Frame  // that passes; of another type than those of header blocks: none
	piece   []byte // what has come of it, with its header
	block   []byte
	whole   bool // block is; it is forgotten with the next bytes
	lost    bool // a block could not be collected: no later one can be read either
	pending bool // block goes on in the next frame
}

// CollectBlocks makes FromServer collect header blocks, for ServerBlock. It is called
// before the first byte.
func (s *Streams) CollectBlocks() { s.blocks = &blocks{} }

// ServerBlock returns the header block that the last FromServer has brought to its
// end, and its stream; ok is false where it has not. It is good until the next call.
// After a block that is longer than MaxBlock, or a promise of a push, there are none.
func (s *Streams) ServerBlock() (stream uint32, block []byte, ok bool) {
	b := s.blocks
	if b == nil || !b.whole {
		return 0, nil, false
	}
	return b.frame.Stream, b.block, true
}

// begin says that a frame comes.
func (b *blocks) begin(f Frame) {
	if b == nil || b.lost {
		return
	}
	b.frame, b.piece = f, b.piece[:0]
	if cap(b.piece) > keptBlock {
		b.piece = nil
	}
	switch f.Type {
	case http2.FramePushPromise:
		b.lose()
	case http2.FrameHeaders:
		if b.block, b.pending = b.block[:0], true; cap(b.block) > keptBlock {
			b.block = nil
		}
	case http2.FrameContinuation:
		if !b.pending {
			b.lose()
		}
	}
}

// take takes the next bytes of the frame that passes; last are its last ones.
func (b *blocks) take(p []byte, last bool) {
	if b == nil {
		return
	}
	b.whole = false
	if b.lost || b.frame.Type != http2.FrameHeaders && b.frame.Type != http2.FrameContinuation {
		return
	}
	if len(b.block)+len(b.piece)+len(p) > MaxBlock {
		b.lose()
		return
	}
	if b.piece = append(b.piece, p...); !last {
		return
	}
	part := b.piece[frameHead:]
	if b.frame.Type == http2.FrameHeaders {
		part = fragment(b.frame, part)
	}
	b.block = append(b.block, part...)
	if b.frame.Flags&http2.FlagHeadersEndHeaders != 0 {
		b.whole, b.pending = true, false
	}
}

func (b *blocks) lose() { *b = blocks{lost: true} }
