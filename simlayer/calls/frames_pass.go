package calls

import (
	"net"
	"time"

	"moult/simlayer/tally"
	"moult/simlayer/wire"
)

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

// run passes on what the caller says until it ends; false: the node takes no more.
func (h *framed) run() bool {
	f := h.front
	for {
		if over, err := h.fromCaller(); err != nil {
			return false
		} else if over {
			return true
		}
		// What is left is a piece of a frame's header: no reason to keep a buffer.
		var piece [16]byte
		have := 0
		if f.n > 0 {
			have = copy(piece[:], (*f.buf)[:f.n])
			f.consume(f.n)
		}
		buf, n, err := f.in.Read(nil, 0)
		if err != nil {
			h.lost()
			return true
		}
		if have > 0 {
			long := make([]byte, have+n)
			copy(long[copy(long, piece[:have]):], (*buf)[:n])
			f.calls.buffers.Put(buf)
			buf, n = &long, have+n
		}
		f.buf, f.n = buf, n
	}
}

// lost says that it is the caller who ended the connection, if nobody else has.
func (h *framed) lost() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.wasCut.Load() && !h.gone {
		h.broken = tally.Canceled
	}
}

// fromCaller passes on the frames that are here. It reports over where they break
// the rules, and an error where the node takes them no more.
func (h *framed) fromCaller() (over bool, err error) {
	f := h.front
	p := (*f.buf)[:f.n]
	start, off := 0, 0 // from start to off nothing has passed yet
	h.mu.Lock()
	for off < len(p) {
		n, drop, e := h.streams.FromClient(p[off:])
		h.noteAnswers()
		switch e {
		case wire.Opening:
			if h.admit() {
				if h.streams.Last() == 0 {
					h.contentType = contentTypeOf(wire.Block(p[off:]))
				}
				h.streams.Admit(p[off:])
				now := time.Now()
				h.began[h.streams.Stream()] = now
				h.newest.Store(now.UnixNano())
				h.front.port.Tally.Begin(h.version, nil)
			} else {
				h.due()
			}
			continue
		case wire.Violated:
			h.mu.Unlock()
			return true, nil
		case wire.Closed:
			h.count(h.streams.Stream(), tally.Answered)
		case wire.Reset:
			h.count(h.streams.Stream(), tally.Canceled)
		}
		if n == 0 {
			break
		}
		if drop && off > start {
			h.mu.Unlock()
			if _, err := h.conn.Write(p[start:off]); err != nil {
				return false, err
			}
			h.mu.Lock()
		}
		off += n
		if drop {
			start = off
		}
	}
	h.mu.Unlock()
	if off > start {
		if _, err := h.conn.Write(p[start:off]); err != nil {
			return false, err
		}
	}
	f.consume(off)
	h.polite()
	return false, nil
}

// admit reports whether a call may begin. mu is held.
func (h *framed) admit() bool {
	g := h.front.calls.Gate
	if h.end >= goAwayDue || h.inside {
		return h.end < goAwayDue
	}
	if !g.TryEnter(&h.ticket, h.cut) {
		return false
	}
	l, route := h.front.port, h.ticket.Route
	version := l.VersionUnder(route)
	p, b, err := route.Path(version, l.Name)
	if err != nil || !route.Relays(p, l.Protocol) || b != h.backend || l.room(route, p, version) != nil {
		g.Leave(&h.ticket)
		return false
	}
	h.inside = true
	return true
}

// down passes on what the node says until it ends.
func (h *framed) down() {
	f := h.front
	var piece []byte // of a frame's header
	for {
		buf, n, err := h.in.Read(nil, 0)
		if err != nil {
			h.says.Lock()
			if last := h.lastWords(err); last != nil {
				_, _ = f.conn.Write(last)
			}
			h.sayFarewell() // the caller has no use for half a connection
			h.says.Unlock()
			h.endCalls()
			return
		}
		p := (*buf)[:n]
		if len(piece) > 0 {
			p = append(piece, p...)
		}
		short, err := h.fromNode(p)
		piece = append([]byte(nil), short...)
		f.calls.buffers.Put(buf)
		if err != nil {
			h.lost()
			f.conn.Close()
			h.conn.Close()
			return
		}
		h.polite()
	}
}

// fromNode passes on frames of the node, and returns what is too short to tell.
func (h *framed) fromNode(p []byte) (short []byte, err error) {
	f := h.front
	h.says.Lock()
	defer h.says.Unlock()
	var tell []byte
	off, at := 0, 0
	h.mu.Lock()
	for off < len(p) {
		n, e := h.streams.FromServer(p[off:])
		h.noteAnswers()
		if n == 0 {
			break
		}
		h.heard(e)
		off += n
		h.greeted = true
		if tell == nil {
			tell, at = h.tell(), off
		}
	}
	h.mu.Unlock()
	if tell == nil {
		_, err = f.conn.Write(p[:off])
		return p[off:], err
	}
	parts := net.Buffers{p[:at], tell, p[at:off]}
	_, err = parts.WriteTo(f.conn)
	return p[off:], err
}
