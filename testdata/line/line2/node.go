package line2

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"moult/testdata/line/internal/serve"
	"moult/testdata/line/line1"
)

const format = "line 2\n"

// Main runs version 2 until SIGTERM, or what else its release brings, and returns
// the exit code. args is without the program's name.
//
//	line serve --listen host:port --state DIR
//	line migrate    makes the state in $MOULT_NEW out of version 1's in $MOULT_OLD
//	line past       answers callers of version 1 by version 2
//	line future     answers callers of version 2 by version 1
//
// It listens on the socket that was handed over for the service "line", if any.
func Main(args []string) int {
	if err := run(args); err != nil {
		fmt.Fprintf(os.Stderr, "line: %v\n", err)
		return 1
	}
	return 0
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if len(args) == 0 {
		return errors.New("want serve, migrate, past or future")
	}
	switch args[0] {
	case "serve":
		return serveNode(ctx, args[1:])
	case "migrate":
		return Migrate(os.Getenv("MOULT_OLD"), os.Getenv("MOULT_FUTURE_STATE"), os.Getenv("MOULT_NEW"))
	case "past":
		return serveObject(ctx, Past)
	case "future":
		return serveObject(ctx, Future)
	}
	return fmt.Errorf("%q is not known", args[0])
}

func serveNode(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("line serve", flag.ContinueOnError)
	listen := flags.String("listen", "", "`host:port` to serve on")
	state := flags.String("state", "", "`folder` of the values")
	if err := flags.Parse(args); err != nil {
		return err
	}
	store, err := Open(*state)
	if err != nil {
		return err
	}
	defer store.Close()
	ln, err := serve.Inherited("line", os.Getenv)
	if err == nil && ln == nil {
		ln, err = net.Listen("tcp", *listen)
	}
	if err != nil {
		return err
	}
	return serve.Serve(ctx, ln, store.Answer)
}

// Store keeps the values.
type Store struct {
	mu     sync.Mutex
	values map[string]string
	number uint64 // of the last write
	log    *os.File
}

// Open opens the state in dir, or makes one.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		return nil, fmt.Errorf("the state in %s is version 1's: it has to be migrated", dir)
	}
	if err := os.WriteFile(filepath.Join(dir, "FORMAT"), []byte(format), 0o644); err != nil {
		return nil, err
	}
	s := &Store{values: map[string]string{}}
	var err error
	if s.log, err = os.OpenFile(filepath.Join(dir, "log"), os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, err
	}
	whole, err := s.replay()
	if err != nil {
		return nil, err
	}
	// What a crash has left of a message goes.
	if err := s.log.Truncate(whole); err != nil {
		return nil, err
	}
	_, err = s.log.Seek(whole, io.SeekStart)
	return s, err
}

// replay returns the length of the whole messages.
func (s *Store) replay() (whole int64, err error) {
	for in := bufio.NewReader(s.log); ; {
		m, err := readMessage(in)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return whole, nil
		}
		if err != nil {
			return 0, err
		}
		if s.number, err = strconv.ParseUint(m[0], 10, 64); err != nil || len(m) < 2 {
			return 0, fmt.Errorf("the log has %.80q", m)
		}
		whole += int64(len(appendMessage(nil, m...)))
		if len(m) == 3 {
			s.values[m[1]] = m[2]
		} else {
			delete(s.values, m[1])
		}
	}
}

// Close closes the file.
func (s *Store) Close() error { return s.log.Close() }

// write makes a write durable and returns its number.
func (s *Store) write(key string, value ...string) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	number := s.number + 1
	m := appendMessage(nil, append([]string{strconv.FormatUint(number, 10), key}, value...)...)
	if _, err := s.log.Write(m); err != nil {
		return 0, err
	}
	if err := s.log.Sync(); err != nil {
		return 0, err
	}
	s.number = number
	if len(value) == 0 {
		delete(s.values, key)
	} else {
		s.values[key] = value[0]
	}
	return number, nil
}

// Answer answers the calls of a connection.
func (s *Store) Answer(c net.Conn) serve.Answer {
	return answer(c, s.reply)
}

// answer answers calls of version 2 by reply, whose error ends the connection.
func answer(c net.Conn, reply func(call []string) ([]string, error)) serve.Answer {
	in := bufio.NewReader(c)
	return func(busy func()) error {
		if _, err := in.Peek(1); err != nil {
			return err
		}
		busy()
		call, err := readMessage(in)
		if err != nil {
			return err
		}
		fields, err := reply(call)
		if err != nil {
			return err
		}
		_, err = c.Write(appendMessage(nil, fields...))
		return err
	}
}

// check says what is wrong with a call.
func check(call []string) error {
	want := map[string]int{"get": 2, "put": 3, "del": 2}[call[0]]
	if want != len(call) {
		return fmt.Errorf("%.20q with %d fields is not known", call[0], len(call))
	}
	if len(call) == 3 && len(call[2]) > line1.MaxText {
		return fmt.Errorf("a value is at most %d bytes", line1.MaxText)
	}
	return line1.CheckKey(call[1])
}

func (s *Store) reply(call []string) ([]string, error) {
	if err := check(call); err != nil {
		return []string{"error", err.Error()}, nil
	}
	if call[0] == "get" {
		s.mu.Lock()
		value, ok := s.values[call[1]]
		s.mu.Unlock()
		if !ok {
			return []string{"none"}, nil
		}
		return []string{"value", value}, nil
	}
	number, err := s.write(call[1], call[2:]...)
	if err != nil {
		return []string{"error", err.Error()}, nil
	}
	return []string{"ok", strconv.FormatUint(number, 10)}, nil
}

// Migrate makes a state of version 2 in the folder to out of version 1's in the
// folder from. Numbers go on from those in the state of [Future] in the folder
// future, which is "" where there is none.
func Migrate(from, future, to string) error {
	if from == "" || to == "" {
		return errors.New("migrate: set $MOULT_OLD to the folder of the old state and $MOULT_NEW to the one for the new")
	}
	number, err := readNumber(future)
	if err != nil {
		return err
	}
	for _, name := range []string{"FORMAT", "log"} {
		if err := os.RemoveAll(filepath.Join(to, name)); err != nil {
			return err
		}
	}
	s, err := Open(to)
	if err != nil {
		return err
	}
	defer s.Close()
	// The caller syncs the whole folder once.
	out := bufio.NewWriter(s.log)
	err = line1.ReadState(from, func(key, text string) error {
		number++
		_, err := out.Write(appendMessage(nil, strconv.FormatUint(number, 10), key, text))
		return err
	})
	return errors.Join(err, out.Flush())
}
