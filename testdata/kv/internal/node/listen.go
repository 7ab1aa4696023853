package node

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// firstInherited is the descriptor of the first socket that a program is given
// by socket activation (sd_listen_fds(3)).
const firstInherited = 3

// listen returns the socket that this process was given, if it was given one,
// and else one of its own on addr: host:port, or unix:PATH.
func listen(addr string, getenv func(string) string) (net.Listener, error) {
	if getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		return inherited(getenv("LISTEN_FDS"))
	}
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		return nil, fmt.Errorf("serve on %s: %w", addr, err)
	}
	return ln, nil
}

// inherited is for a program that has one service: it takes one socket.
func inherited(number string) (net.Listener, error) {
	if number != "1" {
		return nil, fmt.Errorf("serve on the socket that this program was given: LISTEN_FDS=%q, and it needs just 1", number)
	}
	f := os.NewFile(firstInherited, "inherited socket")
	if f == nil {
		return nil, errors.New("serve on the socket that this program was given: there is none")
	}
	defer f.Close() // the listener has its own copy
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("serve on the socket that this program was given: %w", err)
	}
	return ln, nil
}
