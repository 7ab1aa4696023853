package host

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"moult/store/bundle"
)

// Messages between the agent and its object host are frames on a unix socket
// pair: eight bytes of header (the length of what follows, and the number of
// sockets that come with the header, both big-endian), and JSON. Both ends are the
// same binary, so there is no version.

// order is what the agent tells the object host: always all of it.
type order struct {
	Generation uint64        `json:"generation"`
	Hold       time.Duration `json:"hold"`
	Objects    []hosted      `json:"objects"`
	// Native is the version of the node's software.
	Native bundle.Version `json:"native"`
	// Ends has where calls go of versions that no object in the process answers,
	// by service.
	Ends map[bundle.Version]map[string]string `json:"ends"`
	// Sockets lists all listening sockets by name; those in Passed come with the
	// frame, in that order.
	Sockets map[string]listener `json:"sockets"`
	Passed  []string            `json:"passed"`
	// Cache is the folder of compiled wasm.
	Cache string `json:"cache,omitempty"`
}

// hosted is an object of the object host.
type hosted struct {
	Version bundle.Version `json:"version"`
	To      bundle.Version `json:"to"`
	Kind    string         `json:"kind"`
	Path    string         `json:"path,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	State   string         `json:"state,omitempty"`
	Observe string         `json:"observe,omitempty"`
	Memory  int64          `json:"memory,omitempty"`
	Timeout time.Duration  `json:"timeout,omitempty"`
}

// listener says who is answered at a socket.
type listener struct {
	Version bundle.Version `json:"version"`
	Service string         `json:"service"`
}

// report is what the object host tells the agent.
type report struct {
	// Generation is that of the order in force.
	Generation uint64                    `json:"generation"`
	Objects    map[bundle.Version]figure `json:"objects"`
}

// figure is how one object does.
type figure struct {
	// Problem says why the object answers nothing; "" where it does.
	Problem  string        `json:"problem,omitempty"`
	Calls    uint64        `json:"calls"`
	Denied   uint64        `json:"denied"`
	Errors   uint64        `json:"errors"`
	Latency  time.Duration `json:"latency"`
	InFlight int           `json:"in_flight"`
	Oldest   time.Duration `json:"oldest"`
}

const frameHeader = 8

// framer sends and receives frames. Sending is safe for concurrent use;
// receiving is one goroutine's.
type framer struct {
	conn *net.UnixConn
	mu   sync.Mutex // sending
}

// newFramer takes over f, one end of a socket pair.
func newFramer(f *os.File) (*framer, error) {
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
	return &framer{conn: unixConn}, nil
}

func (f *framer) send(message any, sockets []*os.File) error {
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
		rights = syscall.UnixRights(fds...)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n, _, err := f.conn.WriteMsgUnix(header, rights, nil); err != nil || n != len(header) {
		return errors.Join(err, io.ErrShortWrite)
	}
	_, err = f.conn.Write(data)
	return err
}

// receive reads a frame into message and returns the sockets that came with it.
func (f *framer) receive(message any) (sockets []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(sockets)
			sockets = nil
		}
	}()
	header := make([]byte, 0, frameHeader)
	for len(header) < frameHeader {
		oob := make([]byte, syscall.CmsgSpace(maxPassed*4))
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

// received takes the sockets out of what came beside the bytes.
func received(oob []byte) (files []*os.File, err error) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "socket"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// socketPair returns two connected unix sockets.
func socketPair() (ours, theirs *os.File, err error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control"), nil
}
