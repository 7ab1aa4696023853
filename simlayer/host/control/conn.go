package control

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
)

const frameHeader = 8

// Conn sends and receives frames. Sending is safe for concurrent use;
// receiving is one goroutine's.
type Conn struct {
	conn *net.UnixConn
	mu   sync.Mutex // sending
}

// NewConn takes over f, one end of a socket pair.
func NewConn(f *os.File) (*Conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	unixConn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("control socket: it is not a unix socket")
	}
	return &Conn{conn: unixConn}, nil
}

// Close closes the connection.
func (f *Conn) Close() error { return f.conn.Close() }

// Send sends a message, and sockets with it.
func (f *Conn) Send(message any, sockets []*os.File) error {
	data, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(data) > maxFrame || len(sockets) > maxPassed {
		return fmt.Errorf("message of %d bytes and %d sockets, at most %d and %d", len(data), len(sockets), maxFrame, maxPassed)
	}
	header := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
	header = binary.BigEndian.AppendUint32(header, uint32(len(sockets)))
	var rights []byte
	if len(sockets) > 0 {
		fds := make([]int, len(sockets))
		for i, s := range sockets {
			c, err := s.SyscallConn()
			if err != nil {
				return err
			}
			// Not by Fd, which would make the socket blocking.
			if err := c.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
				return err
			}
		}
		rights = rightsOf(fds)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n, _, err := f.conn.WriteMsgUnix(header, rights, nil); err != nil || n != len(header) {
		return errors.Join(err, io.ErrShortWrite)
	}
	_, err = f.conn.Write(data)
	return err
}

// Receive reads a frame into message and returns the sockets that came with it.
func (f *Conn) Receive(message any) (sockets []*os.File, err error) {
	defer func() {
		if err != nil {
			CloseAll(sockets)
			sockets = nil
		}
	}()
	header := make([]byte, 0, frameHeader)
	for len(header) < frameHeader {
		oob := make([]byte, rightsSpace())
		n, oobn, _, _, err := f.conn.ReadMsgUnix(header[len(header):frameHeader], oob)
		if err != nil {
			return sockets, err
		}
		got, err := received(oob[:oobn])
		sockets = append(sockets, got...)
		if err != nil {
			return sockets, err
		}
		if n == 0 {
			return sockets, io.EOF
		}
		header = header[:len(header)+n]
	}
	size, count := binary.BigEndian.Uint32(header), binary.BigEndian.Uint32(header[4:])
	if size > maxFrame || int(count) != len(sockets) {
		return sockets, fmt.Errorf("control socket: a frame of %d bytes with %d of %d sockets", size, len(sockets), count)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(f.conn, data); err != nil {
		return sockets, err
	}
	return sockets, json.Unmarshal(data, message)
}

// CloseAll closes sockets that were sent, or came.
func CloseAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
