package relay

import "moult/simlayer/wire"

// How a request is taken.
type How uint8

// The ways.
const (
	More    How = iota // more of it must come, behind what is here
	Whole              // all of it is here
	Stream             // its head is
	Odd                // it is none that can be followed
	HTTP2              // it is the preface of HTTP/2
	TooLong            // its head does not fit: net/http must answer it
	Foreign            // net/http must answer it
)

// Request reads the request that begins with p. room is how long p can become, replay
// the longest body, in bytes, that is waited for before its call begins. size is how
// many of the bytes that are here, or of a request that is waited for, belong to it.
func (c *Conn) Request(p []byte, room, replay int) (req wire.Request, size int, how How) {
	end := wire.HeadEnd(p, c.seen)
	if end < 0 {
		c.seen = len(p)
		switch first := p[0] | 0x20; {
		case first < 'a' || first > 'z':
			return req, len(p), Odd // such as a greeting of TLS
		case len(p) >= room:
			return req, len(p), TooLong
		}
		return req, 0, More
	}
	c.seen = max(0, end-1) // where more of its body comes
	head := p[:end]
	first := !c.later
	if first && string(head) == wire.Preface[:min(end, len(wire.Preface))] {
		return req, 0, HTTP2
	}
	req, ok := wire.ParseRequest(head)
	switch {
	case !ok:
		return req, len(p), Odd
	case req.Method == "CONNECT":
		return req, end, Foreign
	case req.Body == wire.NoBody:
		size, how = end, Whole
	case req.Body != wire.Sized || req.Expect || req.Length > int64(replay):
		size, how = end, Stream
	case end+int(req.Length) > len(p):
		return req, end + int(req.Length), More
	default:
		size, how = end+int(req.Length), Whole
	}
	c.later = true
	return req, size, how
}
