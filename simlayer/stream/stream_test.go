package stream

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
)

// failing is a listener that fails a few times before somebody comes.
type failing struct {
	net.Listener
	errs []error
	conn net.Conn
}

func (f *failing) Accept() (net.Conn, error) {
	if len(f.errs) > 0 {
		err := f.errs[0]
		f.errs = f.errs[1:]
		return nil, err
	}
	if c := f.conn; c != nil {
		f.conn = nil
		return c, nil
	}
	return nil, net.ErrClosed
}

// A failure to accept passes; the end of the listener, or of the context, does not.
func TestAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		passes := errors.New("too many open files")
		taken := 0
		err := Accept(t.Context(), &failing{errs: []error{passes, passes, passes}, conn: a}, slog.New(slog.DiscardHandler), func(c net.Conn) {
			taken++
			c.Close()
		})
		if !errors.Is(err, net.ErrClosed) || taken != 1 {
			t.Errorf("%d taken, %v", taken, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := Accept(ctx, &failing{errs: []error{passes}, conn: a}, slog.New(slog.DiscardHandler), func(net.Conn) {
			t.Error("somebody was taken after the end")
		}); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

func TestListenSaysWhatToDo(t *testing.T) {
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := Listen(t.Context(), ln.Addr().String()); err == nil || !strings.Contains(err.Error(), "stop the program that has it") {
		t.Error(err)
	}
}

// pair returns the two ends of a connection of TCP.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err == nil {
		b, err = ln.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// Each side's end passes on while the other goes on; a reset passes on as one.
func TestSplice(t *testing.T) {
	a, left := pair(t)
	right, b := pair(t)
	whole := make(chan bool, 1)
	go func() { whole <- Splice(left, right) }()
	for _, c := range []struct{ from, to net.Conn }{{a, b}, {b, a}} {
		if _, err := io.WriteString(c.from, "said"); err != nil {
			t.Fatal(err)
		}
		CloseWrite(c.from)
		if got, err := io.ReadAll(c.to); string(got) != "said" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	if !<-whole {
		t.Error("both sides ended in order, but Splice saw an error")
	}

	a, left = pair(t)
	right, b = pair(t)
	go func() { whole <- Splice(left, right) }()
	Reset(a)
	if got, err := io.ReadAll(b); err == nil {
		t.Errorf("after a reset of one side the other read %q and an end", got)
	}
	if <-whole {
		t.Error("Splice took a reset for an end")
	}
}

// Close waits for what runs, and lets nothing more begin.
func TestTasks(t *testing.T) {
	var tasks Tasks
	end := make(chan struct{})
	if !tasks.Go(func() { <-end }) {
		t.Fatal("an open one takes no task")
	}
	none := tasks.Close()
	if tasks.Go(func() { t.Error("it ran after Close") }) {
		t.Error("a closed one takes a task")
	}
	select {
	case <-none:
		t.Error("Close does not wait")
	default:
	}
	close(end)
	<-none
	<-tasks.Close()
}
