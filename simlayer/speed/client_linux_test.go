package speed

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// client makes calls; it costs little itself, and the same for all ways.
type client struct {
	idle []net.Conn
}

func (c *client) serve(o order) (reply, error) {
	switch o.Do {
	case "drive":
		return drive(o)
	case "idle":
		return c.open(o)
	case "drop":
		c.drop()
		return reply{}, nil
	}
	return reply{}, fmt.Errorf("no order %q", o.Do)
}

// open makes connections, a call on each, and keeps them.
func (c *client) open(o order) (what reply, err error) {
	for range o.Conns {
		one, err := dial(o.Addr)
		if err != nil {
			return what, err
		}
		c.idle = append(c.idle, one.Conn)
		if err := one.call([]byte(o.Request)); err != nil {
			return what, err
		}
		what.Calls++
	}
	return what, nil
}

func (c *client) drop() {
	for _, one := range c.idle {
		one.Close()
	}
	c.idle = nil
}

// drive makes calls for a while, one after the other on each connection.
func drive(o order) (what reply, err error) {
	var wg sync.WaitGroup
	took := make([][]float64, o.Conns)
	errs := make([]error, o.Conns)
	began := time.Now()
	for i := range o.Conns {
		wg.Go(func() { took[i], errs[i] = driveOne(o, began.Add(o.For)) })
	}
	wg.Wait()
	seconds := time.Since(began).Seconds()
	for _, err := range errs {
		if err != nil {
			return what, err
		}
	}
	all := slices.Concat(took...)
	if len(all) == 0 {
		return what, fmt.Errorf("%s: no call in %v", o.Addr, o.For)
	}
	return reply{Calls: len(all), Seconds: seconds, P50: median(all)}, nil
}

func driveOne(o order, end time.Time) (took []float64, err error) {
	var c *caller
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	request := []byte(o.Request)
	for began := time.Now(); len(took) == 0 || began.Before(end); began = time.Now() {
		if c == nil {
			if c, err = dial(o.Addr); err != nil {
				return nil, err
			}
		}
		if err := c.call(request); err != nil {
			return nil, fmt.Errorf("call %d at %s: %w", len(took)+1, o.Addr, err)
		}
		if o.Fresh {
			// By a reset: ports that wait to be used again would make each next
			// dial slower than the last.
			_ = c.Conn.(*net.TCPConn).SetLinger(0)
			c.Close()
			c = nil
		}
		took = append(took, float64(time.Since(began).Nanoseconds())/1e3)
	}
	return took, nil
}

// caller is one connection.
type caller struct {
	net.Conn
	br *bufio.Reader
}

func dial(addr string) (*caller, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	// Only so that a failure is no hang.
	_ = c.SetDeadline(time.Now().Add(patience))
	return &caller{c, bufio.NewReaderSize(c, 32<<10)}, nil
}

var lengthField = []byte("content-length:")

// call makes one call; whatever is not 200 with a body of a known length is an
// error.
func (c *caller) call(request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	length := -1
	for n := 0; ; n++ {
		line, err := c.br.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
		if n == 0 && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			rest, _ := io.ReadAll(io.LimitReader(c.br, int64(c.br.Buffered())))
			return fmt.Errorf("the answer is %.300q", append(slices.Clone(line), rest...))
		}
		if len(line) > len(lengthField) && bytes.EqualFold(line[:len(lengthField)], lengthField) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(lengthField):]))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return fmt.Errorf("the answer has no Content-Length")
	}
	_, err := c.br.Discard(length)
	return err
}
