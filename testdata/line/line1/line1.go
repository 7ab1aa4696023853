// Package line1 is version 1 of line, a small key-value node with a protocol of
// lines over TCP.
//
// # Protocol
//
//	GET KEY          VALUE TEXT, or NONE
//	SET KEY TEXT     OK
//
// Each is a line that ends with a line feed. A key is 1 to 80 bytes without
// spaces; a text is at most 64 KiB without line feeds. What is wrong is answered
// by ERR and the reason. A set has reached the disk when it is acknowledged.
//
// # State
//
//	STATE/data    a line "KEY TEXT" for each set, the newest last
package line1

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
	"strings"
	"sync"
	"syscall"

	"moult/testdata/line/internal/serve"
)

// Limits of the protocol, in bytes.
const (
	MaxKey  = 80
	MaxText = 64 << 10
	maxLine = MaxKey + MaxText + 16
)

// CheckKey says what is wrong with a key.
func CheckKey(key string) error {
	if key == "" || len(key) > MaxKey || strings.ContainsAny(key, " \r\n") {
		return fmt.Errorf("a key is 1 to %d bytes without spaces", MaxKey)
	}
	return nil
}

// CheckText says what is wrong with a text.
func CheckText(text string) error {
	if len(text) > MaxText || strings.Contains(text, "\n") {
		return fmt.Errorf("a text is at most %d bytes without line feeds", MaxText)
	}
	return nil
}

// Main runs version 1 until SIGTERM and returns the exit code. args is without
// the program's name.
//
//	line serve --listen host:port --state DIR
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
	if len(args) == 0 || args[0] != "serve" {
		return errors.New("want: serve --listen host:port --state DIR")
	}
	flags := flag.NewFlagSet("line serve", flag.ContinueOnError)
	listen := flags.String("listen", "", "`host:port` to serve on")
	state := flags.String("state", "", "`folder` of the texts")
	if err := flags.Parse(args[1:]); err != nil {
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
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	return serve.Serve(ctx, ln, store.Answer)
}

// Store keeps the texts.
type Store struct {
	mu    sync.Mutex
	texts map[string]string
	log   *os.File
}

// Open opens the state in dir, or makes one.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "FORMAT")); err == nil {
		return nil, fmt.Errorf("the state in %s was written by another version; run that one", dir)
	}
	s := &Store{texts: map[string]string{}}
	whole, err := read(dir, func(key, text string) { s.texts[key] = text })
	if err != nil {
		return nil, err
	}
	if s.log, err = os.OpenFile(filepath.Join(dir, "data"), os.O_WRONLY|os.O_CREATE, 0o644); err != nil {
		return nil, err
	}
	// What a crash has left of a line goes.
	if err := s.log.Truncate(whole); err != nil {
		return nil, err
	}
	_, err = s.log.Seek(whole, io.SeekStart)
	return s, err
}

// ReadState calls f with every key of the state in dir and its text, in no order.
func ReadState(dir string, f func(key, text string) error) error {
	texts := map[string]string{}
	if _, err := read(dir, func(key, text string) { texts[key] = text }); err != nil {
		return err
	}
	for key, text := range texts {
		if err := f(key, text); err != nil {
			return err
		}
	}
	return nil
}

// read returns the length of the whole lines.
func read(dir string, f func(key, text string)) (int64, error) {
	file, err := os.Open(filepath.Join(dir, "data"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer file.Close()
	in := bufio.NewReader(file)
	for whole := int64(0); ; {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return whole, nil
		}
		if err != nil {
			return 0, err
		}
		whole += int64(len(line))
		key, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		f(key, text)
	}
}

// Close closes the file.
func (s *Store) Close() error { return s.log.Close() }

// Get returns a text; false where there is none.
func (s *Store) Get(key string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, ok := s.texts[key]
	return text, ok
}

// Set gives a key a text.
func (s *Store) Set(key, text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := fmt.Fprintf(s.log, "%s %s\n", key, text); err != nil {
		return err
	}
	if err := s.log.Sync(); err != nil {
		return err
	}
	s.texts[key] = text
	return nil
}

// Answer answers the calls of a connection.
func (s *Store) Answer(c net.Conn) serve.Answer {
	in := bufio.NewReaderSize(c, maxLine)
	return func(busy func()) error {
		verb, key, text, err := ReadCall(in, busy)
		if err != nil {
			return err
		}
		_, err = io.WriteString(c, s.reply(verb, key, text)+"\n")
		return err
	}
}

// ReadCall reads a line; busy is called when it has begun.
func ReadCall(in *bufio.Reader, busy func()) (verb, key, text string, err error) {
	if _, err := in.Peek(1); err != nil {
		return "", "", "", err
	}
	busy()
	line, err := in.ReadSlice('\n')
	if err != nil {
		return "", "", "", err
	}
	verb, rest, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
	key, text, _ = strings.Cut(rest, " ")
	return verb, key, text, nil
}

func (s *Store) reply(verb, key, text string) string {
	if err := CheckKey(key); err != nil {
		return "ERR " + err.Error()
	}
	switch verb {
	case "GET":
		if text, ok := s.Get(key); ok {
			return "VALUE " + text
		}
		return "NONE"
	case "SET":
		if err := CheckText(text); err != nil {
			return "ERR " + err.Error()
		}
		if err := s.Set(key, text); err != nil {
			return "ERR " + err.Error()
		}
		return "OK"
	}
	return fmt.Sprintf("ERR %q is not known", verb)
}

// Client speaks version 1 over a connection.
type Client struct {
	c  net.Conn
	in *bufio.Reader
}

// NewClient takes over c.
func NewClient(c net.Conn) *Client { return &Client{c, bufio.NewReaderSize(c, maxLine)} }

// Close closes the connection.
func (c *Client) Close() error { return c.c.Close() }

// Refused is an answer that begins with ERR.
type Refused string

func (r Refused) Error() string { return string(r) }

// Get returns a text; false where there is none.
func (c *Client) Get(key string) (string, bool, error) {
	reply, err := c.call("GET " + key)
	if err != nil || reply == "NONE" {
		return "", false, err
	}
	text, ok := strings.CutPrefix(reply, "VALUE ")
	if !ok {
		return "", false, fmt.Errorf("GET %s: %.80q", key, reply)
	}
	return text, true, nil
}

// Put gives a key a text.
func (c *Client) Put(key, text string) error {
	reply, err := c.call("SET " + key + " " + text)
	if err == nil && reply != "OK" {
		err = fmt.Errorf("SET %s: %.80q", key, reply)
	}
	return err
}

func (c *Client) call(line string) (string, error) {
	if _, err := io.WriteString(c.c, line+"\n"); err != nil {
		return "", err
	}
	reply, err := c.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	reply = strings.TrimSuffix(reply, "\n")
	if reason, ok := strings.CutPrefix(reply, "ERR "); ok {
		return "", Refused(reason)
	}
	return reply, nil
}
