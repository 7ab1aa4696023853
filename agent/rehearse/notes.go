package rehearse

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"moult/agent/control"
	"moult/store/bundle"
	"moult/transforms"
)

// note is one line of what a process of a rehearsal tells: what it begins, what it has
// ended, or how it ends.
type note struct {
	Begins string `json:"begins,omitempty"` // for people
	Stage  *Stage `json:"stage,omitempty"`
	Torn   bool   `json:"torn,omitempty"`
	End    string `json:"end,omitempty"` // endOK, …
	Reason string `json:"reason,omitempty"`
}

// How a process of a rehearsal ends.
const (
	endOK     = "ok"
	endUnfit  = "unfit"
	endLater  = "later"  // a transform asks to be tried later
	endOther  = "other"  // something else is wrong
	endCannot = "cannot" // the network of its own cannot be used
)

func jobFile(folder string) string { return filepath.Join(folder, "job.json") }

// notebook is where they are written: no program that is started there has it.
type notebook struct{ w io.Writer }

func (n notebook) write(x note) error {
	line, err := json.Marshal(x)
	if err == nil {
		_, err = n.w.Write(append(line, '\n'))
	}
	return err
}

// during notes the beginning and the end of a stage.
func (n notebook) during(what string, s Stage, do func(*Stage) error) error {
	if err := n.write(note{Begins: what}); err != nil {
		return err
	}
	began := time.Now()
	if err := do(&s); err != nil {
		return err
	}
	s.Took = bundle.Duration(time.Since(began))
	return n.write(note{Stage: &s})
}

// end notes how it ends.
func (n notebook) end(err error) error {
	x := note{End: endOK}
	var u *Unfit
	switch {
	case err == nil:
	case errors.As(err, &u):
		x = note{End: endUnfit, Reason: u.Reason}
	case errors.Is(err, transforms.ErrLater):
		x = note{End: endLater, Reason: err.Error()}
	case errors.Is(err, errCannot):
		x = note{End: endCannot, Reason: err.Error()}
	default:
		x = note{End: endOther, Reason: err.Error()}
	}
	return n.write(x)
}

// heard is all that a process tells, which is written to it.
type heard struct {
	watch func(control.RehearsalNews) // nil: nobody does

	mu     sync.Mutex
	size   int
	line   []byte // whose end has not come; of one that is killed it never does
	err    error  // what was told could not be read
	stages []Stage
	begun  string // and has not ended
	torn   bool
	end    *note
}

// Write never fails: who tells is to go on.
func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.size += len(p); h.size > maxNotes {
		h.err = fmt.Errorf("a process of the rehearsal tells more than %d bytes", maxNotes)
	}
	if h.err != nil {
		return len(p), nil
	}
	h.line = append(h.line, p...)
	for {
		line, rest, whole := bytes.Cut(h.line, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		h.line = rest
		h.take(line)
	}
}

func (h *heard) take(line []byte) {
	var x note
	if err := json.Unmarshal(line, &x); err != nil {
		h.err = errors.Join(h.err, fmt.Errorf("what a process of the rehearsal tells: %w", err))
		return
	}
	h.torn = h.torn || x.Torn
	switch {
	case x.Begins != "":
		h.begun = x.Begins
	case x.Stage != nil:
		h.stages, h.begun = append(h.stages, *x.Stage), ""
	case x.End != "":
		h.end = &x
	}
	if h.watch != nil && (x.Begins != "" || x.Stage != nil) {
		h.watch(control.RehearsalNews{Begins: x.Begins, Ended: x.Stage})
	}
}

// clip bounds a reason.
func clip(s string) string {
	if len(s) <= maxReason {
		return s
	}
	return s[:maxReason] + "…"
}
