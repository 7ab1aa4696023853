package wire

import (
	"encoding/binary"
	"slices"

	"golang.org/x/net/http2"
)

// Preface is what a client of HTTP/2 begins with.
const Preface = http2.ClientPreface

const frameHead = 9 // of every frame, in bytes (RFC 9113, 4.1)

// Frame is the header of a frame of HTTP/2.
type Frame struct {
	Type   http2.FrameType
	Flags  http2.Flags
	Stream uint32
	Length int // of the payload, in bytes
}

// frames finds the frames in one direction.
type frames struct {
	skip int // bytes that are left of the preface or of a payload
	// block: a header block goes on in the next frame. Nothing may come between.
	block bool
}

// peek reads the header of the frame at the start of p; ok is false where p is
// too short for one.
func (f *frames) peek(p []byte) (frame Frame, ok bool) {
	if len(p) < frameHead {
		return frame, false
	}
	return Frame{
		Length: int(p[0])<<16 | int(p[1])<<8 | int(p[2]),
		Type:   http2.FrameType(p[3]), Flags: http2.Flags(p[4]),
		Stream: binary.BigEndian.Uint32(p[5:]) &^ (1 << 31),
	}, true
}

// pass takes the frame whose header was peeked, and as much of its payload as p
// has.
func (f *frames) pass(frame Frame, p []byte) (n int) {
	if frame.Type == http2.FrameHeaders || frame.Type == http2.FrameContinuation || frame.Type == http2.FramePushPromise {
		f.block = frame.Flags&http2.FlagHeadersEndHeaders == 0
	}
	f.skip = frameHead + frame.Length
	return f.rest(p)
}

// rest takes what is left of a frame.
func (f *frames) rest(p []byte) (n int) {
	n = min(f.skip, len(p))
	f.skip -= n
	return n
}

// Streams follows an HTTP/2 connection without TLS: which streams are open.
type Streams struct {
	client, server frames
	open           map[uint32]ends
	last           uint32 // that was let through
	admitted       uint32 // what Admit said
	shut           bool   // streams after last are dropped
	dropping       bool   // a frame of such a stream passes
	dropped        bool   // a header block was: the tables of both sides differ
	event          uint32 // the stream of the last event
	blocks         *blocks
	unanswered     int // of the open ones
}

// ends is which sides of a stream have ended, and whether the server has begun to
// answer.
type ends struct{ client, server, answered bool }

// Event is what happened to a stream.
type Event uint8

// Events.
const (
	Nothing  Event = iota
	Opening        // a request wants to begin: Admit it, or Shut
	Closed         // both sides have ended
	Reset          // by one side
	Violated       // of the rules, or of what can be followed; the connection should end
)

// NewStreams follows a connection from its first byte, the client's preface.
func NewStreams() *Streams {
	return &Streams{client: frames{skip: len(Preface)}, open: map[uint32]ends{}}
}

// Open is how many streams are open.
func (s *Streams) Open() int { return len(s.open) }

// Unanswered is how many of them the server has said nothing to.
func (s *Streams) Unanswered() int { return s.unanswered }

// Last is the newest stream that was let through.
func (s *Streams) Last() uint32 { return s.last }

// Stream is the stream that the last event was about.
func (s *Streams) Stream() uint32 { return s.event }

// Waiting lists the open streams to which the server has said nothing.
func (s *Streams) Waiting() (ids []uint32) {
	for id, one := range s.open {
		if !one.answered {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Shut makes FromClient drop every stream after the last one. The client is told
// by GoAway.
func (s *Streams) Shut() { s.shut = true }

// Between reports whether a frame may be put in towards the client now.
func (s *Streams) Between() bool { return s.server.skip == 0 && !s.server.block }

// FromClient takes bytes that come from the client, a frame's at most, and
// returns how many: all pass on, or none (drop). It returns 0 and Nothing where p
// is too short to tell, and 0 and Opening before the frame that opens a stream.
func (s *Streams) FromClient(p []byte) (n int, drop bool, e Event) {
	if s.client.skip > 0 {
		return s.client.rest(p), s.dropping, Nothing
	}
	f, ok := s.client.peek(p)
	if !ok {
		return 0, false, Nothing
	}
	s.dropping = s.shut && f.Stream > s.last
	if !s.dropping {
		if e = s.clientFrame(f); e == Opening || e == Violated {
			return 0, false, e
		}
	} else if f.Type == http2.FrameHeaders {
		s.dropped = true
	}
	return s.client.pass(f, p), s.dropping, e
}

// Admit lets the stream through that is Opening.
func (s *Streams) Admit(p []byte) {
	if f, ok := s.client.peek(p); ok {
		s.admitted = f.Stream
	}
}

func (s *Streams) clientFrame(f Frame) Event {
	ended := f.Flags&http2.FlagHeadersEndStream != 0
	one, open := s.open[f.Stream]
	s.event = f.Stream
	switch f.Type {
	case http2.FrameHeaders:
		switch {
		case f.Stream%2 == 0 || s.dropped || s.client.block:
			return Violated
		case !open && f.Stream > s.last && f.Stream != s.admitted && len(s.open) < MaxStreams:
			return Opening
		case !open && f.Stream > s.last && f.Stream == s.admitted:
			s.last = f.Stream
			s.open[f.Stream] = ends{client: ended}
			s.unanswered++
			return Nothing
		case !open && f.Stream > s.last:
			return Violated
		}
		fallthrough // trailers; also of a stream that the server has reset
	case http2.FrameData:
		if !open || !ended {
			return Nothing
		}
		one.client = true
		return s.put(f.Stream, one)
	case http2.FrameRSTStream:
		return s.reset(f.Stream, open)
	}
	return Nothing
}

// FromServer takes bytes that come from the server, a frame's at most, and
// returns how many; 0 and Nothing where p is too short to tell.
func (s *Streams) FromServer(p []byte) (n int, e Event) {
	if s.server.skip > 0 {
		n = s.server.rest(p)
		s.blocks.take(p[:n], s.server.skip == 0)
		return n, Nothing
	}
	f, ok := s.server.peek(p)
	if !ok {
		return 0, Nothing
	}
	one, open := s.open[f.Stream]
	s.event = f.Stream
	switch f.Type {
	case http2.FrameHeaders, http2.FrameData:
		if open {
			if !one.answered {
				s.unanswered--
			}
			one.answered = true
			one.server = one.server || f.Flags&http2.FlagHeadersEndStream != 0
			e = s.put(f.Stream, one)
		}
	case http2.FrameRSTStream:
		e = s.reset(f.Stream, open)
	}
	n = s.server.pass(f, p)
	s.blocks.begin(f)
	s.blocks.take(p[:n], s.server.skip == 0)
	return n, e
}

func (s *Streams) put(id uint32, one ends) Event {
	if one.client && one.server {
		delete(s.open, id) // answered
		return Closed
	}
	s.open[id] = one
	return Nothing
}

func (s *Streams) reset(id uint32, open bool) Event {
	if !open {
		return Nothing
	}
	if !s.open[id].answered {
		s.unanswered--
	}
	delete(s.open, id)
	return Reset
}

// Block returns the header block of the HEADERS frame at the start of p; nil where
// it is not one, or not all of it is here.
func Block(p []byte) []byte {
	f, ok := (&frames{}).peek(p)
	if !ok || f.Type != http2.FrameHeaders || f.Flags&http2.FlagHeadersEndHeaders == 0 || len(p) < frameHead+f.Length {
		return nil
	}
	return fragment(f, p[frameHead:frameHead+f.Length])
}

// fragment takes what belongs to a header block out of the payload of a HEADERS frame;
// nil where it is not in order.
func fragment(f Frame, p []byte) []byte {
	skip, padding := 0, 0
	if f.Flags&http2.FlagHeadersPadded != 0 {
		if len(p) < 1 {
			return nil
		}
		skip, padding = 1, int(p[0])
	}
	if f.Flags&http2.FlagHeadersPriority != 0 {
		skip += 5
	}
	if skip+padding > len(p) {
		return nil
	}
	return p[skip : len(p)-padding]
}

// Answer is a whole response of a server on a stream: its header block, which
// must leave the table of headers as it is and fit in a frame of the smallest
// maximum, as must the body.
func Answer(stream uint32, block, body []byte) []byte {
	flags := http2.FlagHeadersEndHeaders
	if len(body) == 0 {
		flags |= http2.FlagHeadersEndStream
	}
	b := frame(http2.FrameHeaders, flags, stream, block)
	if len(body) > 0 {
		b = append(b, frame(http2.FrameData, http2.FlagDataEndStream, stream, body)...)
	}
	return b
}

func frame(kind http2.FrameType, flags http2.Flags, stream uint32, payload []byte) []byte {
	b := make([]byte, frameHead, frameHead+len(payload))
	b[0], b[1], b[2] = byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload))
	b[3], b[4] = byte(kind), byte(flags)
	binary.BigEndian.PutUint32(b[5:], stream)
	return append(b, payload...)
}

// Settings is the frame that a server begins with, with nothing set.
func Settings() []byte { return frame(http2.FrameSettings, 0, 0, nil) }

// LastStream is the greatest number of a stream.
const LastStream = 1<<31 - 1

// GoAway is the frame that tells a client which streams were let through: it may
// make the calls of later ones again on another connection.
func GoAway(last uint32) []byte {
	var payload [8]byte // and the code for no error
	binary.BigEndian.PutUint32(payload[:], last)
	return frame(http2.FrameGoAway, 0, 0, payload[:])
}
