package udpkv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// node is the node's software. One goroutine has it.
type node struct {
	version int
	values  map[string]string
	log     *os.File
}

func openNode(version int, state string) (*node, error) {
	path := filepath.Join(state, "log")
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	n := &node{version: version, values: map[string]string{}}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		n.values[key] = value
	}
	if n.log, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return nil, err
	}
	return n, nil
}

// answer carries out one call.
func (n *node) answer(m message) message {
	w := wordsOf(n.version)
	switch {
	case m.word == w.get:
		value, ok := n.values[m.rest]
		if !ok {
			return message{m.id, w.none, ""}
		}
		return message{m.id, w.value, value}
	case m.word == w.set:
		key, value, ok := strings.Cut(m.rest, " ")
		if !ok || strings.Contains(value, "\n") {
			return m.failure("want a key and a value, on one line")
		}
		if _, err := fmt.Fprintf(n.log, "%s %s\n", key, value); err != nil {
			return m.failure(err.Error())
		}
		n.values[key] = value
		return message{m.id, w.done, ""}
	case m.word == "count" && n.version == 2:
		return message{m.id, w.value, strconv.Itoa(len(n.values))}
	}
	return m.failure(fmt.Sprintf("version %d knows no %q", n.version, m.word))
}

// serve answers until ctx ends, and what has arrived by then.
func (n *node) serve(ctx context.Context, conn net.PacketConn) error {
	defer n.log.Close()
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) })()
	buf := make([]byte, maxDatagram)
	for {
		size, from, err := conn.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if _, err := conn.WriteTo(n.answer(parse(buf[:size])).bytes(), from); err != nil {
			return err
		}
	}
}
