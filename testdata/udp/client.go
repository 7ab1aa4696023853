package udpkv

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Client speaks one version of the protocol to one node. One goroutine has it.
type Client struct {
	conn  net.Conn
	words words
	calls int
	// Patience is how long it waits for an answer before it asks again, and Tries
	// how often it asks.
	Patience time.Duration
	Tries    int
	// Asked counts the datagrams that it has sent.
	Asked int
}

// Denied is what a node or an object says to a call that it does not carry out.
type Denied struct{ Reason string }

func (e *Denied) Error() string { return "denied: " + e.Reason }

// Dial makes no call. addr is the node's host:port.
func Dial(version int, addr string) (*Client, error) {
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, words: wordsOf(version), Patience: 5 * time.Second, Tries: 4}, nil
}

// Close ends the client.
func (c *Client) Close() error { return c.conn.Close() }

// Set sets a key.
func (c *Client) Set(key, value string) error {
	m, err := c.call(c.words.set, key+" "+value)
	if err == nil && m.word != c.words.done {
		err = fmt.Errorf("set: answered %q", m.bytes())
	}
	return err
}

// Get gets a key; false where there is none.
func (c *Client) Get(key string) (value string, ok bool, err error) {
	m, err := c.call(c.words.get, key)
	switch {
	case err != nil:
		return "", false, err
	case m.word == c.words.none:
		return "", false, nil
	case m.word != c.words.value:
		return "", false, fmt.Errorf("get: answered %q", m.bytes())
	}
	return m.rest, true, nil
}

// Count counts the keys, which version 2 knows.
func (c *Client) Count() (string, error) {
	m, err := c.call("count", "")
	return m.rest, err
}

// call asks until it is answered. Answers to what it asked before are let go.
func (c *Client) call(word, rest string) (message, error) {
	c.calls++
	ask := message{fmt.Sprint(c.calls), word, rest}
	buf := make([]byte, maxDatagram)
	var err error
	for range c.Tries {
		c.Asked++
		if _, err = c.conn.Write(ask.bytes()); err != nil {
			continue // nobody was there for an earlier one
		}
		_ = c.conn.SetReadDeadline(time.Now().Add(c.Patience))
		for err == nil {
			var n int
			if n, err = c.conn.Read(buf); err != nil {
				break
			}
			m := parse(buf[:n])
			switch {
			case m.id != ask.id:
				continue
			case m.word == "error":
				return m, &Denied{m.rest}
			}
			return m, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			time.Sleep(c.Patience / 10) // refused at once: it may pass
		}
	}
	return message{}, fmt.Errorf("%s: no answer to %d datagrams: %w", ask.bytes(), c.Tries, err)
}
