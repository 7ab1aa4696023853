//go:build unix

package screen_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"moult/cmd/moult/internal/screen"
	"moult/testdata/screentest"
)

var widths = []int{60, 80, 120, 200}

// frames are views that grow, shrink, and have lines that are too long, and what is seen of
// them on a screen of 20 rows.
func frames(width int) (views []screen.View, seen [][]string) {
	long := strings.Repeat("wörd→ ", 60)
	for i, n := range []int{3, 3, 7, 1, 19, 5, 40, 2, 12} {
		var lines, want []string
		for j := range n {
			line := fmt.Sprintf("frame %d line %d %s", i, j, long[:(i*j*7)%len(long)])
			line = strings.ToValidUTF8(line, "")
			lines = append(lines, "\x1b[31m"+line+"\x1b[m")
			if r := []rune(line); len(r) > width {
				line = string(r[:width-1]) + "…"
			}
			want = append(want, strings.TrimRight(line, " "))
		}
		if n > 19 {
			want = append(want[:18], fmt.Sprintf("… and %d more lines", n-18))
		}
		views = append(views, func(int, int) []string { return lines })
		seen = append(seen, want)
	}
	return views, seen
}

// What stands on the screen is the last view, whatever stood there before, and above it what
// was written before.
func TestLive(t *testing.T) {
	t.Setenv("TERM", "xterm-256color")
	for _, width := range widths {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			s := screentest.Open(t, width, 20)
			on := screen.TerminalOf(s.TTY, false)
			if w, h := on.Size(); w != width || h != 20 || !on.Redraws {
				t.Fatalf("a terminal of %d columns and %d rows, %+v", w, h, on)
			}
			live := screen.Start(on, false)
			views, seen := frames(width)
			for i, v := range views {
				live.Show(v)
				s.Await(fmt.Sprintf("frame %d:\n%s\nbut", i, strings.Join(seen[i], "\n")), func(rows []string) bool {
					return len(rows) >= len(seen[i]) && slices.Equal(rows[len(rows)-len(seen[i]):], seen[i])
				})
			}
			if err := live.Close(); err != nil {
				t.Error(err)
			}
			fmt.Fprintln(s.TTY, "afterwards")
			want := append(slices.Clone(seen[len(seen)-1]), "afterwards")
			s.Await("what is written afterwards", func(rows []string) bool { return len(rows) > 0 && rows[len(rows)-1] == "afterwards" })
			if got := s.Rows(); !slices.Equal(got, want) {
				t.Errorf("in the end\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			for _, fault := range s.Faults() {
				t.Error(fault)
			}
			if err := live.Close(); err != nil {
				t.Errorf("closed again: %v", err)
			}
		})
	}
}

// What takes the whole screen is gone in the end, and what stood there is back.
func TestLiveWhole(t *testing.T) {
	t.Setenv("TERM", "xterm-256color")
	for _, width := range widths {
		s := screentest.Open(t, width, 20)
		fmt.Fprintln(s.TTY, "before")
		live := screen.Start(screen.TerminalOf(s.TTY, false), true)
		views, seen := frames(width)
		for i, v := range views {
			live.Show(v)
			s.Await(fmt.Sprintf("frame %d alone:\n%s\nbut", i, strings.Join(seen[i], "\n")), func(rows []string) bool { return slices.Equal(rows, seen[i]) })
		}
		if err := live.Close(); err != nil {
			t.Error(err)
		}
		fmt.Fprintln(s.TTY, "afterwards")
		s.Await("what stood there before", func(rows []string) bool { return slices.Equal(rows, []string{"before", "afterwards"}) })
		for _, fault := range s.Faults() {
			t.Errorf("%d columns: %s", width, fault)
		}
	}
}

// A view that cannot be made ends it all, and is told.
func TestLivePanic(t *testing.T) {
	t.Setenv("TERM", "xterm-256color")
	s := screentest.Open(t, 80, 20)
	fmt.Fprintln(s.TTY, "before")
	live := screen.Start(screen.TerminalOf(s.TTY, false), true)
	live.Show(func(int, int) []string { panic("no such view") })
	<-live.Ended()
	if err := live.Close(); err == nil || !strings.HasPrefix(err.Error(), "draw on the terminal: ") {
		t.Errorf("closed after a panic: %v", err)
	}
	fmt.Fprintln(s.TTY, "afterwards")
	s.Await("what stood there before", func(rows []string) bool { return slices.Equal(rows, []string{"before", "afterwards"}) })
}

// The terminal of these tests tells what it is for.
func TestLiveFaultsCaught(t *testing.T) {
	redraw := func(up int) string {
		return "n1 waits\nn2 waits\n" + fmt.Sprintf("\x1b[%dA\x1b[J", up) + "n1 is here\nn2 waits\n"
	}
	for what, c := range map[string]struct{ text, want string }{
		"good":                  {redraw(2), ""},
		"as long as it is wide": {strings.Repeat("x", 60) + "\r\n", ""},
		"a line too long":       {strings.Repeat("x", 61) + "\n", "longer than 60 columns"},
		"that goes at once":     {strings.Repeat("x", 61) + "\r\x1b[K", "longer than 60 columns"},
		"not far enough up":     {"n1 waits\nn2 waits\n\x1b[1A\x1b[Jn1 waits\nn2 waits\n", "twice: \"n1 waits\""},
		"scrolled away":         {"n1 waits\n" + strings.Repeat("\n", 30) + "n1 waits\n", "twice: \"n1 waits\""},
	} {
		s := screentest.Open(t, 60, 20)
		fmt.Fprint(s.TTY, c.text)
		faults := strings.Join(s.Faults(), "\n")
		if c.want == "" && faults != "" || !strings.Contains(faults, c.want) {
			t.Errorf("%s: %q, want %q", what, faults, c.want)
		}
	}
}

// What a terminal can do is what the environment says of it.
func TestTerminalOf(t *testing.T) {
	s := screentest.Open(t, 80, 24)
	for what, c := range map[string]struct {
		kind, noColor string
		plain         bool
		redraws       bool
		color         bool
	}{
		"usual":        {kind: "xterm-256color", redraws: true, color: true},
		"dumb":         {kind: "dumb"},
		"unknown":      {},
		"NO_COLOR":     {kind: "xterm", noColor: "yes", redraws: true},
		"NO_COLOR=0":   {kind: "xterm", noColor: "0", redraws: true},
		"plain":        {kind: "xterm", plain: true, redraws: true},
		"dumb, colour": {kind: "dumb", noColor: ""},
	} {
		t.Setenv("TERM", c.kind)
		t.Setenv("NO_COLOR", c.noColor)
		if got := screen.TerminalOf(s.TTY, c.plain); !got.Is() || got.Redraws != c.redraws || got.Color != c.color {
			t.Errorf("%s: %+v", what, got)
		}
	}
	var pipe strings.Builder
	if got := screen.TerminalOf(&pipe, false); got.Is() || got.Redraws || got.Color {
		t.Errorf("a pipe: %+v", got)
	}
	if w, h := (screen.Terminal{}).Size(); w != 0 || h != 0 {
		t.Errorf("no terminal of %d columns and %d rows", w, h)
	}
}

// A line that tells how far something is stays in its place, however long it gets.
func TestProgress(t *testing.T) {
	t.Setenv("TERM", "xterm")
	s := screentest.Open(t, 60, 20)
	p := screen.ProgressOn(s.TTY)
	for i := range 20 {
		p.Show(fmt.Sprintf("step %d %s", i, strings.Repeat("→x", i*3)))
	}
	s.Await("the last step", func(rows []string) bool {
		return len(rows) == 1 && strings.HasPrefix(rows[0], "step 19") && strings.HasSuffix(rows[0], "…")
	})
	p.Done()
	fmt.Fprintln(s.TTY, "done")
	s.Await("it gone", func(rows []string) bool { return slices.Equal(rows, []string{"done"}) })
	for _, fault := range s.Faults() {
		t.Error(fault)
	}
	t.Setenv("TERM", "dumb")
	if screen.ProgressOn(s.TTY).Shows() {
		t.Error("a dumb terminal is shown what is to be redrawn")
	}
}
