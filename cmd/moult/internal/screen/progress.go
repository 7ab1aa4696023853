package screen

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/charmbracelet/x/ansi"
)

// Progress is one line that tells how far something is, in its place on a terminal.
type Progress struct {
	To io.Writer
	// Width is how long the line may be now, in columns; nil where nothing is to be shown.
	Width func() int

	shown string
}

// ProgressOn shows nothing where w is no terminal that can redraw.
func ProgressOn(w io.Writer) *Progress {
	t := TerminalOf(w, true)
	if !t.Redraws {
		return &Progress{}
	}
	return &Progress{To: w, Width: func() int { width, _ := t.Size(); return width }}
}

// Shows reports whether what is shown is seen.
func (p *Progress) Shows() bool { return p.Width != nil }

// Show has a line take the place of the one before.
func (p *Progress) Show(line string) {
	if p.Shows() && line != p.shown {
		p.shown = line
		fmt.Fprint(p.To, "\r"+Cut(line, p.Width()-1)+ansi.EraseLineRight) // the last column is the cursor's
	}
}

// Done takes the line away: what comes says it all.
func (p *Progress) Done() {
	if p.Shows() && p.shown != "" {
		p.shown = ""
		fmt.Fprint(p.To, "\r"+ansi.EraseLineRight)
	}
}

// Transfer shows how many bytes of something are done, how fast that goes, and how long the
// rest will take, until it is Done. It is safe for concurrent use.
type Transfer struct {
	mu      sync.Mutex // guards what follows
	on      *Progress  // nil: it is done
	what    string
	began   time.Time
	drawn   time.Time
	started int64 // bytes that were done when it began
}

// TransferOn shows nothing where w is no terminal that can redraw.
func TransferOn(w io.Writer) *Transfer { return &Transfer{on: ProgressOn(w)} }

// Done takes the line away. Nothing is shown after it.
func (t *Transfer) Done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.on != nil {
		t.on.Done()
		t.on = nil
	}
}

// Show tells how much is done of what; total is 0 where nobody knows. It may be called as often
// as anything is done: what is seen changes some times a second, and at the end.
func (t *Transfer) Show(what string, done, total int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.on == nil || !t.on.Shows() {
		return
	}
	now := time.Now()
	if what != t.what {
		t.what, t.began, t.started = what, now, done
	} else if now.Sub(t.drawn) < redraw && done != total {
		return
	}
	t.drawn = now
	t.on.Show(transferred(what, done, total, done-t.started, now.Sub(t.began), t.on.Width()-1))
}

// transferred is a line of so many columns that says how far something is: moved bytes of it
// took so long.
func transferred(what string, done, total, moved int64, took time.Duration, width int) string {
	amount := Bytes(done)
	if total > 0 {
		amount = fmt.Sprintf("%3d%%  %s of %s", 100*min(done, total)/total, amount, Bytes(total))
	}
	if took >= rateAfter && moved > 0 {
		rate := float64(moved) / took.Seconds()
		amount += fmt.Sprintf("  %s/s", Bytes(int64(rate)))
		if left := total - done; left > 0 {
			amount += fmt.Sprintf("  %s left", For(time.Duration(float64(left)/rate*float64(time.Second))))
		}
	}
	room := min(width-ansi.StringWidth(what)-ansi.StringWidth(amount)-4, longestBar)
	if total <= 0 || room < shortestBar {
		return what + "  " + amount
	}
	full := int(int64(room) * min(done, total) / total)
	return what + "  " + strings.Repeat("█", full) + strings.Repeat("░", room-full) + "  " + amount
}

// Reading is r with each read told to t, as a part of total bytes.
func (t *Transfer) Reading(r io.Reader, what string, total int64) io.Reader {
	return &reading{Reader: r, tell: func(done int64) { t.Show(what, done, total) }}
}

type reading struct {
	io.Reader
	done int64
	tell func(done int64)
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.done += int64(n)
	r.tell(r.done)
	return n, err
}

// ReadingAt is r, whose reads go from its beginning to its end, with how far they are told to t.
func (t *Transfer) ReadingAt(r io.ReaderAt, what string, total int64) io.ReaderAt {
	return readingAt{r, func(done int64) { t.Show(what, done, total) }}
}

type readingAt struct {
	io.ReaderAt
	tell func(done int64)
}

func (r readingAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, off)
	r.tell(off + int64(n))
	return n, err
}
