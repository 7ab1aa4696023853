package calls

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"moult/simlayer/relay"
	"moult/simlayer/so"
	"moult/simlayer/stream"
	"moult/simlayer/tally"
	"moult/simlayer/wire"
)

// callerAnswer is an answer on its way to the caller, in the form in which net/http's
// server would write it behind a ReverseProxy.
type callerAnswer struct {
	resp    *http.Response
	last    bool  // the connection ends after it
	bare    bool  // it has no body
	memory  bool  // all of its body is here
	length  int64 // of the body; -1: it goes in chunks
	outcome tally.Outcome
}

// respond answers the caller. It ends the exchange.
func (c *simulation) respond(resp *http.Response) {
	f := c.front
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		c.refuse(explain(false, errors.New("the node switched protocols without being asked")))
		return
	}
	dropNamed(resp.Header)
	a := callerAnswer{resp: resp, outcome: tally.Answered, length: declared(resp.Header)}
	if c.via != 0 {
		a.outcome = relay.RefusedBy(resp.Header.Get(so.RefusalHeader))
	}
	a.last = c.request.close || f.calls.Gate.Leaving() || f.port.leads()
	a.bare = c.request.req.Method == http.MethodHead || resp.StatusCode < 200 || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified
	here, short := bodyHere(resp.Body)
	if a.memory = short && here <= stream.BufferSize; a.memory && a.length < 0 {
		a.length = here
	}
	c.out = a.appendHead(c.out[:0])
	switch {
	case c.out == nil:
		c.refuse(explain(c.unsafe, errField))
	case a.bare:
		c.end(&a, c.out)
	case a.memory:
		c.whole(&a, here)
	default:
		c.stream(&a)
	}
}

// dropNamed removes the headers that are of one connection, as its own header says.
func dropNamed(h http.Header) {
	for _, list := range h["Connection"] {
		if plainConnection(list) {
			continue
		}
		for name := range strings.SplitSeq(list, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
}

// bodyHere returns how much of a body is left, where it is in memory.
func bodyHere(body io.Reader) (n int64, ok bool) {
	if body == http.NoBody {
		return 0, true
	}
	b, ok := body.(interface{ Len() int })
	if !ok {
		return 0, false
	}
	return int64(b.Len()), true
}

// whole answers by a body that is here. One that broke off breaks the connection,
// and nothing of it passes on; one that just is not as long as the head says ends
// it.
func (c *simulation) whole(a *callerAnswer, here int64) {
	n := min(here, a.length)
	start := len(c.out)
	c.out = append(c.out, make([]byte, n)...)
	_, err := io.ReadFull(a.resp.Body, c.out[start:])
	if here < a.length && err == nil {
		if _, err = a.resp.Body.Read(make([]byte, 1)); err == io.EOF {
			a.last, err = true, nil
		}
	}
	if err != nil || here > a.length {
		c.lose(tally.Failed)
		return
	}
	c.end(a, c.out)
}

// end ends the exchange, and then writes what is last of its answer: nobody may
// know the answer and still find the call at the node.
func (c *simulation) end(a *callerAnswer, text []byte) {
	c.unwatch()
	f := c.front
	f.mu.Lock()
	f.do(f.core.Simulated(a.outcome, a.last))
	if _, err := f.conn.Write(text); err != nil {
		f.lose(tally.Canceled)
		return
	}
	f.wrote()
}

// part writes a part of an answer.
func (c *simulation) part(text []byte, a *callerAnswer) error {
	f := c.front
	f.mu.Lock()
	f.core.SimulatedPart(a.length < 0, wire.Events([]byte(a.resp.Header.Get("Content-Type"))))
	lasts := f.call.streams.IsZero()
	if lasts {
		f.call.streams = time.Now()
	}
	f.mu.Unlock()
	f.stirIf(lasts)
	_, err := f.conn.Write(text)
	return err
}

// chunkRoom is what the line before a chunk needs at most.
const chunkRoom = 8

// stream answers by a body that is still to come, piece by piece.
func (c *simulation) stream(a *callerAnswer) {
	f := c.front
	if c.part(c.out, a) != nil {
		c.lose(tally.Canceled)
		return
	}
	buf := f.calls.buffers.Get()
	c.bufs = append(c.bufs, buf)
	chunked, left := a.length < 0, a.length
	for {
		room := (*buf)[chunkRoom : len(*buf)-2]
		if !chunked {
			room = room[:min(int64(len(room)), left)]
		}
		n, err := 0, io.EOF
		if len(room) > 0 {
			n, err = a.resp.Body.Read(room)
		}
		left -= int64(n)
		piece := room[:n]
		if chunked && n > 0 {
			piece = chunk(*buf, n)
		}
		switch {
		case !chunked && left == 0:
			c.end(a, piece)
			return
		case err == io.EOF && chunked:
			c.end(a, append(append(piece, "0\r\n"...), trailerOf(a.resp)...))
			return
		}
		if n > 0 && c.part(piece, a) != nil {
			c.lose(tally.Canceled)
			return
		}
		if err != nil {
			c.lose(tally.Failed)
			return
		}
	}
}

// chunk makes a chunk of the n bytes of buf that begin at chunkRoom.
func chunk(buf []byte, n int) []byte {
	var line [chunkRoom]byte
	size := append(strconv.AppendInt(line[:0], int64(n), 16), "\r\n"...)
	start := chunkRoom - len(size)
	copy(buf[start:], size)
	return append(buf[start:chunkRoom+n], "\r\n"...)
}

// trailerOf returns what follows the last chunk, with the empty line.
func trailerOf(resp *http.Response) []byte {
	b := appendFields(nil, resp.Trailer, nil)
	return append(b, "\r\n"...)
}

// appendHead appends the head of the answer; nil: a field of it cannot be
// written.
func (a *callerAnswer) appendHead(b []byte) []byte {
	status := a.resp.StatusCode
	b = appendStatus(b, status)
	dated := false
	bodiless := status < 200 || status == http.StatusNoContent || status == http.StatusNotModified
	sized := false
	b = appendFields(b, a.resp.Header, func(name string, _ []string) bool {
		switch name {
		case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
			return false
		case "Content-Length":
			if bodiless {
				return false
			}
			sized = true
		case "Date":
			dated = true
		}
		return true
	})
	if b == nil {
		return nil
	}
	switch {
	case a.bare || sized:
	case a.length >= 0:
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), a.length, 10), "\r\n"...)
	default:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	for name := range a.resp.Trailer {
		b = append(append(append(b, "Trailer: "...), name...), "\r\n"...)
	}
	if !dated {
		b = append(time.Now().UTC().AppendFormat(append(b, "Date: "...), http.TimeFormat), "\r\n"...)
	}
	if a.last {
		b = append(b, "Connection: close\r\n"...)
	}
	return append(b, "\r\n"...)
}

func appendStatus(b []byte, status int) []byte {
	b = strconv.AppendInt(append(b, "HTTP/1.1 "...), int64(status), 10)
	b = append(b, ' ')
	if text := http.StatusText(status); text != "" {
		b = append(b, text...)
	} else {
		b = strconv.AppendInt(append(b, "status code "...), int64(status), 10)
	}
	return append(b, "\r\n"...)
}

// interim passes on an interim response.
func (c *simulation) interim(status int, h http.Header) error {
	b := appendFields(appendStatus(nil, status), h, func(name string, _ []string) bool {
		return name != "Content-Length" && name != "Transfer-Encoding"
	})
	if b == nil {
		return errField
	}
	_, err := c.front.conn.Write(append(b, "\r\n"...))
	return err
}
