package wire

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/net/http2"
)

// Header blocks are found however the bytes come: padded, with a priority, in several
// frames, between others.
func TestBlocks(t *testing.T) {
	padded := append([]byte{2, 0, 0, 0, 0, 9}, "three\x00\x00"...)
	whole := slices.Concat(
		Settings(),
		frame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, []byte("one")),
		frame(http2.FrameData, http2.FlagHeadersEndStream, 1, []byte("data")),
		frame(http2.FrameHeaders, http2.FlagHeadersEndStream, 3, []byte("tw")), frame(http2.FrameContinuation, 0, 3, nil), frame(http2.FrameContinuation, http2.FlagHeadersEndHeaders, 3, []byte("o")),
		frame(http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersPadded|http2.FlagHeadersPriority, 5, padded),
		frame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 7, nil),
	)
	for size := 1; size <= len(whole); size++ {
		s := NewStreams()
		s.CollectBlocks()
		var got []string
		for p, rest := []byte(nil), whole; len(rest) > 0; {
			n := min(size, len(rest))
			p, rest = append(p, rest[:n]...), rest[n:]
			for len(p) > 0 {
				n, _ := s.FromServer(p)
				if n == 0 {
					break
				}
				if stream, block, ok := s.ServerBlock(); ok {
					got = append(got, fmt.Sprintf("%d %s", stream, block))
				}
				p = p[n:]
			}
		}
		if want := []string{"1 one", "3 two", "5 three", "7 "}; !slices.Equal(got, want) {
			t.Fatalf("in pieces of %d bytes: %q, want %q", size, got, want)
		}
	}
}

// A block that cannot be collected is the last one: later ones cannot be read.
func TestBlocksLost(t *testing.T) {
	long := make([]byte, MaxBlock/2)
	for name, first := range map[string][]byte{
		"too long": slices.Concat(frame(http2.FrameHeaders, 0, 1, long), frame(http2.FrameContinuation, http2.FlagHeadersEndHeaders, 1, long)),
		"a push":   frame(http2.FramePushPromise, http2.FlagHeadersEndHeaders, 1, []byte("\x00\x00\x00\x02push")),
		"no begin": frame(http2.FrameContinuation, http2.FlagHeadersEndHeaders, 1, []byte("x")),
	} {
		s := NewStreams()
		s.CollectBlocks()
		for p := append(first, frame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 3, []byte("later"))...); len(p) > 0; {
			n, _ := s.FromServer(p)
			if _, block, ok := s.ServerBlock(); ok || n == 0 {
				t.Fatalf("%s: %d bytes, block %.20q", name, n, block)
			}
			p = p[n:]
		}
		if s.blocks.piece != nil || s.blocks.block != nil {
			t.Errorf("%s: memory is kept", name)
		}
	}
}
