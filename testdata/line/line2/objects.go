package line2

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"moult/testdata/line/internal/serve"
	"moult/testdata/line/line1"
)

// An object answers the calls of a connection; next dials the version beside it,
// state is its folder.
type objectFunc func(next func() (net.Conn, error), state string) (func(net.Conn) serve.Answer, error)

// serveObject runs an object as moult starts it: with a listening socket, and an
// address to call.
func serveObject(ctx context.Context, object objectFunc) error {
	ln, err := serve.Inherited("line", os.Getenv)
	if err == nil && ln == nil {
		err = errors.New("no listening socket was handed over (LISTEN_FDS): moult starts this command")
	}
	if err != nil {
		return err
	}
	addr := os.Getenv("MOULT_NEXT_LINE")
	open, err := object(func() (net.Conn, error) { return net.Dial("tcp", addr) }, os.Getenv("MOULT_STATE"))
	if err != nil {
		return err
	}
	return serve.Serve(ctx, ln, open)
}

// Past answers callers of version 1 by calls of version 2.
func Past(next func() (net.Conn, error), _ string) (func(net.Conn) serve.Answer, error) {
	return func(c net.Conn) serve.Answer {
		in := bufio.NewReaderSize(c, line1.MaxText+256)
		up := &upstream[*Client]{dial: next, speak: NewClient}
		return func(busy func()) error {
			verb, key, text, err := line1.ReadCall(in, busy)
			if err != nil {
				up.close()
				return err
			}
			reply, err := pastReply(up, verb, key, text)
			var refused line1.Refused
			if errors.As(err, &refused) {
				reply, err = "ERR "+string(refused), nil
			}
			if err != nil {
				up.close()
				return err // the caller sees what happened to us: a connection that ends
			}
			_, err = c.Write([]byte(reply + "\n"))
			return err
		}
	}, nil
}

func pastReply(up *upstream[*Client], verb, key, text string) (string, error) {
	if err := line1.CheckKey(key); err != nil {
		return "", line1.Refused(err.Error())
	}
	next, err := up.get()
	if err != nil {
		return "", err
	}
	switch verb {
	case "GET":
		value, ok, err := next.Get(key)
		switch {
		case err != nil:
			return "", err
		case !ok:
			return "NONE", nil
		case strings.Contains(value, "\n"):
			return "", line1.Refused("denied: the value has a line feed, which version 1 cannot show")
		}
		return "VALUE " + value, nil
	case "SET":
		return "OK", next.Put(key, text)
	}
	return "", line1.Refused(fmt.Sprintf("%q is not known", verb))
}

// Future answers callers of version 2 by calls of version 1.
func Future(next func() (net.Conn, error), state string) (func(net.Conn) serve.Answer, error) {
	n, err := openNumbers(state)
	if err != nil {
		return nil, err
	}
	return func(c net.Conn) serve.Answer {
		up := &upstream[*line1.Client]{dial: next, speak: line1.NewClient}
		calls := answer(c, func(call []string) ([]string, error) {
			reply, err := futureReply(up, n, call)
			var refused line1.Refused
			if errors.As(err, &refused) {
				return []string{"error", string(refused)}, nil
			}
			return reply, err
		})
		return func(busy func()) error {
			err := calls(busy)
			if err != nil {
				up.close()
			}
			return err
		}
	}, nil
}

func futureReply(up *upstream[*line1.Client], n *numbers, call []string) ([]string, error) {
	if err := check(call); err != nil {
		return nil, line1.Refused(err.Error())
	}
	if call[0] == "del" {
		return nil, line1.Refused("denied: version 1 cannot delete")
	}
	next, err := up.get()
	if err != nil {
		return nil, err
	}
	if call[0] == "get" {
		text, ok, err := next.Get(call[1])
		if err != nil || !ok {
			return []string{"none"}, err
		}
		return []string{"value", text}, nil
	}
	if strings.Contains(call[2], "\n") {
		return nil, line1.Refused("denied: version 1 cannot keep a value with a line feed")
	}
	if err := next.Put(call[1], call[2]); err != nil {
		return nil, err
	}
	number, err := n.next()
	if err != nil {
		return nil, err
	}
	return []string{"ok", strconv.FormatUint(number, 10)}, nil
}

// upstream is the connection to next, dialled when it is first needed.
type upstream[C interface{ Close() error }] struct {
	dial   func() (net.Conn, error)
	speak  func(net.Conn) C
	client C
	up     bool
}

func (u *upstream[C]) get() (C, error) {
	if u.up {
		return u.client, nil
	}
	c, err := u.dial()
	if err != nil {
		return u.client, err
	}
	u.client, u.up = u.speak(c), true
	return u.client, nil
}

func (u *upstream[C]) close() {
	if u.up {
		u.client.Close()
	}
}

// numbers counts writes durably. It reserves them by blocks, so that a write
// costs no sync of its own; numbers of a block that a crash cuts short are left
// out.
type numbers struct {
	file string

	mu       sync.Mutex
	last     uint64
	reserved uint64
}

const (
	numberFile  = "number"
	numberBlock = 1000
)

// readNumber returns what is reserved in the state of Future in dir.
func readNumber(dir string) (uint64, error) {
	if dir == "" {
		return 0, nil
	}
	data, err := os.ReadFile(filepath.Join(dir, numberFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
}

func openNumbers(dir string) (*numbers, error) {
	last, err := readNumber(dir)
	if err != nil {
		return nil, err
	}
	return &numbers{file: filepath.Join(dir, numberFile), last: last, reserved: last}, nil
}

func (n *numbers) next() (uint64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last == n.reserved {
		if err := n.reserve(n.reserved + numberBlock); err != nil {
			return 0, err
		}
	}
	n.last++
	return n.last, nil
}

func (n *numbers) reserve(upTo uint64) error {
	tmp := n.file + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d\n", upTo)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, n.file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(n.file))
	if err != nil {
		return err
	}
	defer dir.Close()
	n.reserved = upTo
	return dir.Sync()
}
