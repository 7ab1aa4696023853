package calls

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"

	"moult/simlayer/relay"
	"moult/simlayer/so"
	"moult/simlayer/stream"
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

// contentTypeOf reads the header block of the first call on a connection.
func contentTypeOf(block []byte) string {
	d := hpack.NewDecoder(4096, nil)
	d.SetMaxStringLength(stream.BufferSize)
	fields, err := d.DecodeFull(block)
	if err != nil {
		return ""
	}
	for _, f := range fields {
		if f.Name == "content-type" {
			return f.Value
		}
	}
	return ""
}

// encodeRefusal writes a refusal for a caller of HTTP/2. Its fields do not touch
// the table of headers, which is the node's.
func encodeRefusal(r *so.Refusal, contentType string) (block, body []byte) {
	resp := r.Response(&http.Request{Header: http.Header{"Content-Type": {contentType}}})
	var out bytes.Buffer
	enc := hpack.NewEncoder(&out)
	add := func(name, value string) {
		_ = enc.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: true}) // to memory
	}
	add(":status", strconv.Itoa(resp.StatusCode))
	for name, values := range resp.Header {
		for _, value := range values {
			add(strings.ToLower(name), value)
		}
	}
	body, _ = io.ReadAll(resp.Body) // from memory
	return out.Bytes(), body
}
