//go:build unix

// Package screentest is a terminal for tests: a real pseudo-terminal, and what would be seen
// on it. It tells when a line was longer than the terminal is wide, and what stands there
// twice.
package screentest

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"

	"moult/testdata/kit"
)

// beyond is how many columns a second screen has more, which is told the same: what is
// written there would have been wrapped.
const beyond = 400

// Screen is a terminal.
type Screen struct {
	TTY   *os.File // what programs write to
	t     *testing.T
	width int
	ended chan struct{}

	mu     sync.Mutex // for what follows
	seen   *vt.Emulator
	wide   *vt.Emulator
	faults []string
	news   chan struct{} // closed when something was written, and made anew
}

// Open makes a terminal, which ends with the test.
func Open(t *testing.T, width, height int) *Screen {
	t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		t.Skipf("there are no pseudo-terminals here: %v", err)
	}
	if err := pty.Setsize(master, &pty.Winsize{Rows: uint16(height), Cols: uint16(width)}); err != nil {
		t.Fatal(err)
	}
	s := &Screen{
		TTY: tty, t: t, width: width, ended: make(chan struct{}), news: make(chan struct{}),
		seen: vt.NewEmulator(width, height), wide: vt.NewEmulator(width+beyond, height),
	}
	var drained sync.WaitGroup
	for _, e := range []*vt.Emulator{s.seen, s.wide} {
		drained.Go(func() { _, _ = io.Copy(io.Discard, e) }) // answers to questions, which nobody asks
	}
	go func() {
		defer close(s.ended)
		s.read(master)
	}()
	t.Cleanup(func() {
		_ = tty.Close()
		<-s.ended
		_ = master.Close()
		// Their own Close does not bear a Read beside it.
		_, _ = s.seen.InputPipe().(io.Closer).Close(), s.wide.InputPipe().(io.Closer).Close()
		drained.Wait()
	})
	return s
}

func (s *Screen) read(master io.Reader) {
	buf := make([]byte, 1<<16)
	for {
		n, err := master.Read(buf)
		if err != nil {
			return // nobody has the terminal open any more
		}
		s.mu.Lock()
		_, _ = s.seen.Write(buf[:n])
		s.measure(buf[:n])
		close(s.news)
		s.news = make(chan struct{})
		s.mu.Unlock()
	}
}

// measure notes lines that are too long, also where they go at once.
func (s *Screen) measure(text []byte) {
	for len(text) > 0 {
		n := 1 // to before the next letter that steers
		for n < len(text) && text[n] >= ' ' {
			n++
		}
		_, _ = s.wide.Write(text[:n])
		if at := s.wide.CursorPosition(); at.X > s.width {
			s.faults = append(s.faults, fmt.Sprintf("longer than %d columns: %q", s.width, text[:n]))
		}
		text = text[n:]
	}
}

// rows are the lines that have been scrolled away, and those on the screen, without blanks
// at their ends.
func rows(e *vt.Emulator) (rows []string) {
	for y := range e.ScrollbackLen() {
		var b strings.Builder
		for x := range e.Width() {
			if c := e.ScrollbackCellAt(x, y); c != nil {
				b.WriteString(c.Content)
			}
		}
		rows = append(rows, strings.TrimRight(b.String(), " "))
	}
	for row := range strings.SplitSeq(e.String(), "\n") {
		rows = append(rows, strings.TrimRight(row, " "))
	}
	for len(rows) > 0 && rows[len(rows)-1] == "" {
		rows = rows[:len(rows)-1]
	}
	return rows
}

// Rows is what stands there.
func (s *Screen) Rows() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return rows(s.seen)
}

// Await waits until what stands there is good.
func (s *Screen) Await(what string, good func(rows []string) bool) {
	s.t.Helper()
	late := time.After(kit.Patience)
	for {
		s.mu.Lock()
		now, news := rows(s.seen), s.news
		s.mu.Unlock()
		if good(now) {
			return
		}
		select {
		case <-news:
		case <-s.ended:
			s.t.Fatalf("it ended without %s:\n%s", what, strings.Join(now, "\n"))
		case <-late:
			s.t.Fatalf("without %s:\n%s", what, strings.Join(now, "\n"))
		}
	}
}

// Faults ends the terminal: it tells what was longer than it is wide at any time, and what
// stands there twice in the end. What had it open besides the test must have ended.
func (s *Screen) Faults() []string {
	_ = s.TTY.Close()
	<-s.ended
	s.mu.Lock()
	defer s.mu.Unlock()
	faults := slices.Clone(s.faults)
	for _, row := range Twice(rows(s.seen)) {
		faults = append(faults, fmt.Sprintf("twice: %q", row))
	}
	return faults
}

// Twice are the rows that stand there again, blank ones apart. While something is drawn that
// may be so for a moment.
func Twice(rows []string) (again []string) {
	seen := map[string]bool{}
	for _, row := range rows {
		if row != "" && seen[row] {
			again = append(again, row)
		}
		seen[row] = true
	}
	return again
}
