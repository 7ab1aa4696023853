package wire

import (
	"fmt"
	"slices"
	"testing"
)

// Header blocks are found however the bytes come: padded, with a priority, in several
// frames, between others.
func TestBlocks(t *testing.T) {
	padded := append([]byte{2, 0, 0, 0, 0, 9}, "three\x00\x00"...)
	whole := slices.Concat(
		Settings(),
		frame(frameHeaders, flagEndHeaders, 1, []byte("one")),
		frame(frameData, flagEndStream, 1, []byte("data")),
		frame(frameHeaders, flagEndStream, 3, []byte("tw")), frame(frameContinuation, 0, 3, nil), frame(frameContinuation, flagEndHeaders, 3, []byte("o")),
		frame(frameHeaders, flagEndHeaders|flagPadded|flagPriority, 5, padded),
		frame(frameHeaders, flagEndHeaders, 7, nil),
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
		"too long": slices.Concat(frame(frameHeaders, 0, 1, long), frame(frameContinuation, flagEndHeaders, 1, long)),
		"a push":   frame(framePush, flagEndHeaders, 1, []byte("\x00\x00\x00\x02push")),
		"no begin": frame(frameContinuation, flagEndHeaders, 1, []byte("x")),
	} {
		s := NewStreams()
		s.CollectBlocks()
		for p := append(first, frame(frameHeaders, flagEndHeaders, 3, []byte("later"))...); len(p) > 0; {
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
