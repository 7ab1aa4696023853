package screen

import (
	"cmp"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/charmbracelet/x/ansi"
	"golang.org/x/term"
)

// Terminal is where people see what is written; the zero Terminal is none, such as a pipe.
type Terminal struct {
	file *os.File
	// Redraws tells that what stands there can be written over, and Color that it has colours.
	Redraws, Color bool
}

// TerminalOf looks at what w writes to. Nothing is redrawn where TERM is dumb, and nothing
// coloured where plain says so, or NO_COLOR (https://no-color.org) is set to anything.
func TerminalOf(w io.Writer, plain bool) Terminal {
	f, ok := w.(*os.File)
	if !ok || !IsTerminal(f) {
		return Terminal{}
	}
	kind := os.Getenv("TERM")
	t := Terminal{file: f, Redraws: kind != "dumb" && (kind != "" || runtime.GOOS == "windows")}
	t.Color = t.Redraws && !plain && os.Getenv("NO_COLOR") == ""
	return t
}

// Is reports whether there is a terminal.
func (t Terminal) Is() bool { return t.file != nil }

// Size is how many columns and rows there are: 0 and 0 where there is no terminal, and what
// is normal where it does not say.
func (t Terminal) Size() (width, height int) {
	if !t.Is() {
		return 0, 0
	}
	width, height, err := term.GetSize(int(t.file.Fd()))
	if err != nil {
		width, height = 0, 0
	}
	return cmp.Or(width, normalWidth), cmp.Or(height, normalHeight)
}

// IsTerminal reports whether what is written to w is seen on a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Wrap breaks a text's lines at words so that none is longer than width, and words that are;
// what follows a break stands wrapIndent further to the right. 0 is no width: it changes nothing.
func Wrap(text string, width int) string {
	if width <= 0 {
		return text
	}
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if ansi.StringWidth(line) <= width {
			lines = append(lines, line)
			continue
		}
		indent := strings.Repeat(" ", min(len(line)-len(strings.TrimLeft(line, " "))+wrapIndent, width/2))
		// Names have hyphens, and are not broken there.
		line = strings.ReplaceAll(line, "-", noBreak)
		// The first line has more room than those after it, so it is cut off first.
		first, _, _ := strings.Cut(broken(line, width), "\n")
		lines = append(lines, strings.TrimRight(first, " "))
		rest := strings.TrimLeft(strings.TrimPrefix(line, first), " ")
		for more := range strings.SplitSeq(broken(rest, width-len(indent)), "\n") {
			lines = append(lines, indent+strings.TrimRight(more, " "))
		}
	}
	return strings.ReplaceAll(strings.Join(lines, "\n"), noBreak, "-")
}

// broken is a line in lines, at words where it can be. The first step lets a word through that
// is a little too long behind a blank.
func broken(line string, width int) string {
	return ansi.Hardwrap(ansi.Wrap(line, width, ""), width, true)
}

// noBreak stands for a hyphen; it is for private use, so no text that is Harmless has it.
const noBreak = "\uE000"

// Wrapping is w for whole lines of text, which are broken to fit the terminal that it writes
// to, if it does.
func Wrapping(w io.Writer) io.Writer {
	t := TerminalOf(w, true)
	if !t.Is() {
		return w
	}
	return wrapping{w: w, t: t}
}

type wrapping struct {
	w io.Writer
	t Terminal
}

func (w wrapping) Write(p []byte) (int, error) {
	width, _ := w.t.Size()
	if _, err := io.WriteString(w.w, Wrap(string(p), width)); err != nil {
		return 0, err
	}
	return len(p), nil
}
