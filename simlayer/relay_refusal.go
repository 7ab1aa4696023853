package simlayer

import (
	"strings"

	"golang.org/x/net/http2/hpack"

	"moult/simlayer/relay"
	"moult/simlayer/so"
	"moult/simlayer/tally"
	"moult/simlayer/wire"
)

// refusals2 finds in what an object process answers by HTTP/2 which calls it has
// refused. Nil finds none: it is for connections to the node itself, whose header
// blocks nobody needs to read.
type refusals2 struct {
	decoder *hpack.Decoder
	broken  bool   // it has lost track of the table of headers
	word    string // so.RefusalHeader of the block that is read
	refused map[uint32]tally.Outcome
	ended   uint32 // the call that ends with the frame that passes, or its block
}

func newRefusals2() *refusals2 {
	r := &refusals2{refused: map[uint32]tally.Outcome{}}
	r.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if strings.EqualFold(f.Name, so.RefusalHeader) {
			r.word = f.Value
		}
	})
	// The caller may have allowed a larger table than the first one.
	r.decoder.SetAllowedMaxDynamicTableSize(wire.MaxBlock)
	r.decoder.SetMaxStringLength(wire.MaxBlock)
	return r
}

// read notes what a header block says of a stream.
func (r *refusals2) read(stream uint32, block []byte) {
	if r.broken {
		return
	}
	r.word = ""
	_, err := r.decoder.Write(block)
	if err != nil || r.decoder.Close() != nil {
		r.broken = true
		return
	}
	if o := relay.RefusedBy(r.word); o != tally.Answered {
		r.refused[stream] = o
	}
}

// of is what became of a call that was answered; it is asked once.
func (r *refusals2) of(stream uint32) tally.Outcome {
	if r == nil {
		return tally.Answered
	}
	o, refused := r.refused[stream]
	if !refused {
		return tally.Answered
	}
	delete(r.refused, stream)
	return o
}

// heard counts a call that a frame of the node ends. Where it may have been refused,
// that is when all of the frame, and of the header block that it begins, has come. mu
// is held.
func (h *framed) heard(e wire.Event) {
	r, ended := h.refusals, e == wire.Closed || e == wire.Reset
	if r == nil {
		if ended {
			h.count(h.streams.Stream(), tally.Answered)
		}
		return
	}
	if ended {
		r.ended = h.streams.Stream()
	}
	if stream, block, ok := h.streams.ServerBlock(); ok {
		r.read(stream, block)
		if _, open := h.began[stream]; !open {
			delete(r.refused, stream)
		}
	}
	if r.ended != 0 && h.streams.Between() {
		h.count(r.ended, tally.Answered)
		r.ended = 0
	}
}
