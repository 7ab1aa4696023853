package control

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"moult/simlayer/stream"
	"moult/store/bundle"
)

// pair returns two connected framers.
func connected(t *testing.T) (a, b *Conn) {
	t.Helper()
	ours, theirs, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	if a, err = NewConn(ours); err == nil {
		b, err = NewConn(theirs)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.conn.Close(); b.conn.Close() })
	return a, b
}

func TestFrames(t *testing.T) {
	a, b := connected(t)
	ln, err := stream.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sent := Order{Generation: 7, Passed: []string{"x", "y"}, Ends: map[bundle.Version]map[string]string{3: {"api": "a:1"}}}
	for range 3 {
		if err := a.Send(sent, []*os.File{f, f}); err != nil {
			t.Fatal(err)
		}
		if err := a.Send(Report{Generation: 1}, nil); err != nil {
			t.Fatal(err)
		}
		var got Order
		files, err := b.Receive(&got)
		if err != nil || len(files) != 2 || got.Generation != 7 || got.Ends[3]["api"] != "a:1" {
			t.Fatalf("%+v with %d sockets, %v", got, len(files), err)
		}
		passed, err := net.FileListener(files[1])
		if err != nil || passed.Addr().String() != ln.Addr().String() {
			t.Errorf("%v %v, want a socket at %v", passed, err, ln.Addr())
		}
		passed.Close()
		CloseAll(files)
		var r Report
		if files, err := b.Receive(&r); err != nil || len(files) != 0 || r.Generation != 1 {
			t.Fatalf("%+v with %d sockets, %v", r, len(files), err)
		}
	}
	if err := a.Send(Order{Cache: strings.Repeat("x", maxFrame)}, nil); err == nil {
		t.Error("a frame that is too long was sent")
	}
	a.conn.Close()
	if _, err := b.Receive(&sent); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestBadFrames(t *testing.T) {
	for name, bytes := range map[string]string{
		"too long":        "\xff\xff\xff\xff\x00\x00\x00\x00",
		"missing sockets": "\x00\x00\x00\x02\x00\x00\x00\x01{}",
		"not JSON":        "\x00\x00\x00\x02\x00\x00\x00\x00{{",
		"short":           "\x00\x00\x00\x09\x00\x00\x00\x00{}",
	} {
		a, b := connected(t)
		if _, err := a.conn.Write([]byte(bytes)); err != nil {
			t.Fatal(err)
		}
		a.conn.Close()
		var r Report
		if _, err := b.Receive(&r); err == nil {
			t.Errorf("%s: %+v was received", name, r)
		}
	}
}
