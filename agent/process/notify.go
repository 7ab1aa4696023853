package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"

	"moult/agent/account"
	"moult/store/durable"
)

// notifier listens for READY=1 in the manner of sd_notify(3). Its methods may
// be called on nil: software that does not use it.
type notifier struct {
	path string
	conn *net.UnixConn
	once sync.Once
	told chan struct{} // closed when READY=1 came

	mu     sync.Mutex
	handle Handle
	status string
}

// listenNotify listens at path, in place of an agent that is gone. Whoever may
// write to the path's folder may send.
func listenNotify(path string, who *account.Account) (*notifier, error) {
	if path == "" {
		return nil, errors.New("no socket to hear READY=1 on")
	}
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path of the notify socket, %s, has %d bytes, more than the %d that a socket's may have: choose a data folder with a shorter path", path, len(path), maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	if err := who.Give(path); err != nil {
		return nil, errors.Join(fmt.Errorf("notify socket: %w", err), conn.Close())
	}
	return &notifier{path: path, conn: conn, told: make(chan struct{})}, nil
}

func (n *notifier) record() string { return n.path + ".ready" }

// expect forgets earlier software: READY=1 will be of h.
func (n *notifier) expect(h Handle) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handle = h
	// A record that stays is of another process, and recall would see that.
	os.Remove(n.record())
}

// recall finds out whether h has sent READY=1 to an earlier agent.
func (n *notifier) recall(h Handle) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handle = h
	data, err := os.ReadFile(n.record())
	if err != nil || len(data) > maxRecord {
		return
	}
	var was Handle
	if json.Unmarshal(data, &was) == nil && was == h {
		n.once.Do(func() { close(n.told) })
	}
}

// serve reads messages until stop.
func (n *notifier) serve(log *slog.Logger) {
	buf := make([]byte, maxNotify)
	for {
		size, err := n.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			log.Warn("message of the node software not read", "err", err)
			return
		}
		if err := n.hear(string(buf[:size])); err != nil {
			log.Warn("that the node software is ready is not recorded", "err", err)
		}
	}
}

// hear takes one message: lines of NAME=value, of which most are not for us.
func (n *notifier) hear(message string) (err error) {
	for line := range strings.SplitSeq(message, "\n") {
		name, value, _ := strings.Cut(line, "=")
		switch {
		case name == "STATUS":
			n.mu.Lock()
			n.status = value
			n.mu.Unlock()
		case name == "READY" && value == "1":
			n.once.Do(func() {
				err = n.write()
				close(n.told)
			})
		}
	}
	return err
}

func (n *notifier) write() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	data, err := json.Marshal(n.handle)
	if err != nil {
		return err
	}
	return durable.WriteFile(n.record(), data, 0o600)
}

// check is the health check of software that uses sd_notify.
func (n *notifier) check() error {
	select {
	case <-n.told:
		return nil
	default:
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.status != "" {
		return fmt.Errorf("READY=1 was not sent to the notify socket; its last STATUS was %.200q", n.status)
	}
	return errors.New("READY=1 was not sent to the notify socket")
}

// ready is closed when READY=1 came; nil, so never, on nil.
func (n *notifier) ready() <-chan struct{} {
	if n == nil {
		return nil
	}
	return n.told
}

func (n *notifier) stop() {
	if n != nil {
		n.conn.Close()
	}
}
