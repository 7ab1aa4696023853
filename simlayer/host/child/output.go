package child

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// logLines logs what a process writes, line by line, until it ends. Long lines
// are cut and too many left out, but all is read: the process never waits.
func logLines(r io.Reader, last *lastWords, log *slog.Logger) {
	in := bufio.NewReaderSize(r, maxLine)
	allowed := allowance{left: lineBurst, at: time.Now()}
	dropped := 0
	tell := func() {
		if dropped > 0 {
			log.Warn("a simulation object writes more than is logged", "linesLeftOut", dropped)
			dropped = 0
		}
	}
	for cont := false; ; {
		line, err := in.ReadSlice('\n')
		full := errors.Is(err, bufio.ErrBufferFull)
		text := strings.ToValidUTF8(strings.TrimRight(string(line), "\r\n"), "?")
		if !cont {
			last.hear(text)
		}
		switch {
		case cont || text == "": // the rest of a line that was cut
		case allowed.take(time.Now()):
			tell()
			log.Info("a simulation object writes", "line", text)
		default:
			dropped++
		}
		cont = full
		if err != nil && !full {
			tell()
			return
		}
	}
}

// allowance is how many lines may be logged now.
type allowance struct {
	left float64
	at   time.Time
}

func (a *allowance) take(now time.Time) bool {
	a.left = min(lineBurst, a.left+now.Sub(a.at).Seconds()*linesPerSecond)
	a.at = now
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

// lastWords is the line of a process's output that tells most about its end: the
// last one, or that with which Go begins a crash.
type lastWords struct {
	mu    sync.Mutex
	text  string
	crash bool
}

func (l *lastWords) hear(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.crash || line == "" {
		return
	}
	l.crash = slices.ContainsFunc([]string{"panic: ", "fatal error: ", "runtime/cgo: ", "SIGSEGV: ", "SIGABRT: "}, func(prefix string) bool {
		return strings.HasPrefix(line, prefix)
	})
	l.text = line[:min(len(line), maxWords)]
}

func (l *lastWords) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text
}
