package screen

import (
	"fmt"
	"strings"
	"sync"

	tea "charm.land/bubbletea/v2"
)

// View is a text for a screen of so many columns and rows. It may be asked for at any time,
// and so must change nothing.
type View func(width, height int) []string

// Live shows a text in its place on a terminal. What else is written there meanwhile would
// stand in its midst, so nothing must be.
type Live struct {
	on      Terminal
	whole   bool
	close   func() // closes closing
	closing chan struct{}
	ended   chan struct{}
	err     error // read after ended

	mu      sync.Mutex // guards what follows
	view    View
	program *tea.Program // has ended while a shell has the process stopped
}

// Start shows nothing yet, on a terminal that redraws. The caller closes it. Where it takes
// the whole screen, what stood there comes back then, and a terminal that breaks lines anew
// when it gets narrower leaves nothing behind; else it goes on below what stands there.
//
// The terminal is given back while a shell has the process stopped (Ctrl-Z).
func Start(t Terminal, whole bool) *Live {
	l := &Live{on: t, whole: whole, closing: make(chan struct{}), ended: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closing) })
	l.open()
	asked := suspensions()
	go func() {
		defer close(l.ended)
		defer asked.end()
		l.err = l.run(asked)
	}()
	return l
}

// open begins a program. None is taken up again after a stop: bubbletea's may lose its ticker
// then, and draws nothing any more.
func (l *Live) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Signals and keys are the command's own.
	l.program = tea.NewProgram(model{whole: l.whole, view: l.view}, tea.WithOutput(l.on.file), tea.WithInput(nil), tea.WithoutSignalHandler())
}

func (l *Live) run(asked suspension) error {
	for {
		ended := make(chan error, 1)
		go func() {
			_, err := l.program.Run()
			ended <- err
		}()
		select {
		case err := <-ended:
			return err
		case <-l.closing:
			l.program.Quit()
			return <-ended
		case <-asked.stop:
			l.program.Quit()
			if err := <-ended; err != nil {
				return err
			}
			asked.follow()
			l.open()
		}
	}
}

// Show has a view take the place of the one before.
func (l *Live) Show(v View) {
	l.mu.Lock()
	l.view = v
	program := l.program
	l.mu.Unlock()
	program.Send(v)
}

// Ended is closed when nothing is shown any more: after Close, or when the terminal cannot be
// drawn on; Close tells why.
func (l *Live) Ended() <-chan struct{} { return l.ended }

// Close leaves the last view on the screen, with the cursor below it, unless it had the whole
// of it. It may be called twice.
func (l *Live) Close() error {
	l.close()
	<-l.ended
	if l.err != nil {
		return fmt.Errorf("draw on the terminal: %w", l.err)
	}
	return nil
}

// model is what bubbletea draws.
type model struct {
	whole         bool
	view          View
	width, height int
}

func (model) Init() tea.Cmd { return nil }

func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case View:
		m.view = msg
	}
	return m, nil
}

func (m model) View() tea.View {
	if m.view == nil || m.width <= 0 || m.height <= 0 {
		v := tea.NewView("")
		v.AltScreen = m.whole
		return v
	}
	height := min(m.height, maxRows)
	// The last row stays free, for the cursor.
	v := tea.NewView(strings.Join(clip(m.view(m.width, height-1), m.width, height-1), "\n") + "\n")
	v.AltScreen = m.whole
	return v
}

// clip takes from lines what does not fit a screen.
func clip(lines []string, width, height int) []string {
	if height = max(height, 1); len(lines) > height {
		left := len(lines) - height + 1
		lines = append(lines[:height-1:height-1], fmt.Sprintf("… and %s", Count(left, "more line")))
	}
	clipped := make([]string, len(lines))
	for i, l := range lines {
		clipped[i] = Cut(l, width)
	}
	return clipped
}
