// Package line2 is version 2 of line: the same store, another protocol.
//
// # Protocol
//
// A message is a netstring (the length in decimal, a colon, the bytes, a comma) of
// netstrings, its fields.
//
//	get KEY          value BYTES, or none
//	put KEY BYTES    ok NUMBER
//	del KEY          ok NUMBER
//
// Values are any bytes, at most 64 KiB. NUMBER is that of the write at this node:
// each is higher than those before it, also over upgrades. What is wrong is
// answered by error REASON.
//
// # State
//
//	STATE/FORMAT    "line 2"
//	STATE/log       a message NUMBER KEY BYTES (or NUMBER KEY, of a del) for each
//	                write, the newest last
//
// # Simulation objects
//
// Callers of version 1 are answered by [Past], which needs no state; a value with
// a line feed cannot be shown to them, and is denied. Callers of version 2 are
// answered at nodes of version 1 by [Future]: it denies what version 1 cannot
// keep, values with line feeds, and del. It gives numbers to writes, which version
// 1 does not, and keeps them in its state; [Migrate] goes on from there.
package line2

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"moult/testdata/line/line1"
)

const (
	maxFields  = 4
	maxMessage = line1.MaxText + line1.MaxKey + 256
)

// appendMessage appends a message to b.
func appendMessage(b []byte, fields ...string) []byte {
	var inner []byte
	for _, f := range fields {
		inner = append(inner, strconv.Itoa(len(f))+":"+f+","...)
	}
	b = append(b, strconv.Itoa(len(inner))+":"...)
	return append(append(b, inner...), ',')
}

// readMessage reads a message; its error is io.EOF only before the first byte.
func readMessage(in *bufio.Reader) ([]string, error) {
	whole, err := readNetstring(in)
	if err != nil {
		return nil, err
	}
	var fields []string
	for rest := bufio.NewReader(strings.NewReader(whole)); ; {
		f, err := readNetstring(rest)
		if errors.Is(err, io.EOF) && len(fields) > 0 {
			return fields, nil
		}
		if err != nil || len(fields) == maxFields {
			return nil, fmt.Errorf("not a message: %.80q", whole)
		}
		fields = append(fields, f)
	}
}

func readNetstring(in *bufio.Reader) (string, error) {
	n := 0
	for digits := 0; ; digits++ {
		c, err := in.ReadByte()
		if errors.Is(err, io.EOF) && digits > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return "", err
		}
		if c == ':' && digits > 0 {
			break
		}
		if c < '0' || c > '9' || digits == 7 {
			return "", fmt.Errorf("not a netstring: %q in its length", c)
		}
		n = 10*n + int(c-'0')
	}
	if n > maxMessage {
		return "", fmt.Errorf("a message of %d bytes, at most %d", n, maxMessage)
	}
	data := make([]byte, n+1)
	if _, err := io.ReadFull(in, data); err != nil {
		return "", io.ErrUnexpectedEOF
	}
	if data[n] != ',' {
		return "", errors.New("a netstring without a comma at its end")
	}
	return string(data[:n]), nil
}

// Client speaks version 2 over a connection.
type Client struct {
	c  net.Conn
	in *bufio.Reader
	// Last is the number of the last write that was acknowledged.
	Last uint64
}

// NewClient takes over c.
func NewClient(c net.Conn) *Client { return &Client{c: c, in: bufio.NewReader(c)} }

// Close closes the connection.
func (c *Client) Close() error { return c.c.Close() }

// Get returns a value; false where there is none.
func (c *Client) Get(key string) (string, bool, error) {
	reply, err := c.call("get", key)
	switch {
	case err != nil:
		return "", false, err
	case len(reply) == 1 && reply[0] == "none":
		return "", false, nil
	case len(reply) == 2 && reply[0] == "value":
		return reply[1], true, nil
	}
	return "", false, fmt.Errorf("get %s: %.80q", key, reply)
}

// Put gives a key a value.
func (c *Client) Put(key, value string) error { return c.write("put", key, value) }

// Delete deletes a key.
func (c *Client) Delete(key string) error { return c.write("del", key) }

func (c *Client) write(fields ...string) error {
	reply, err := c.call(fields...)
	if err != nil {
		return err
	}
	if len(reply) != 2 || reply[0] != "ok" {
		return fmt.Errorf("%s: %.80q", fields[0], reply)
	}
	n, err := strconv.ParseUint(reply[1], 10, 64)
	if err == nil && n <= c.Last {
		err = fmt.Errorf("%s: write %d comes after write %d", fields[0], n, c.Last)
	}
	c.Last = n
	return err
}

func (c *Client) call(fields ...string) ([]string, error) {
	if _, err := c.c.Write(appendMessage(nil, fields...)); err != nil {
		return nil, err
	}
	reply, err := readMessage(c.in)
	if err == nil && len(reply) == 2 && reply[0] == "error" {
		return nil, line1.Refused(reply[1])
	}
	return reply, err
}
