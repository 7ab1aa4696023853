package relay

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"moult/simlayer/tally"
)

// walker drives a Conn by events in any order that sockets and a gate can bring about,
// and checks what it is told to do.
type walker struct {
	c      Conn
	on     bool // a call has begun and has not ended
	inside bool // the gate
	begun  int
	ended  int
	fault  string
}

func (w *walker) do(d Do) {
	if d.Ended {
		w.ended++
		switch {
		case !w.on:
			w.fault = "a call ended that was not on"
		case d.Leave != w.inside:
			w.fault = fmt.Sprintf("leave is %v, but inside is %v", d.Leave, w.inside)
		}
		w.on, w.inside = false, false
	}
	switch d.Next {
	case Again:
		w.inside = false
	case RefuseCut, Refuse:
		w.refused()
	}
}

func (w *walker) refused() {
	_, d := w.c.Refused(tally.Failed, false)
	w.do(d)
}

// part takes bytes of the node.
func (w *walker) part(text string) {
	for len(text) > 0 {
		part := w.c.Answer([]byte(text), true, false)
		w.do(part.Do)
		if part.Drop || part.Keep {
			return
		}
		text = text[part.Pass:]
	}
}

const (
	wholeCall = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	longCall  = "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"
)

// step brings about one event that can come now.
func (w *walker) step(rng *rand.Rand) {
	c := &w.c
	switch rng.IntN(12) {
	case 0:
		w.do(c.CallerEnded(rng.IntN(2) == 0))
	case 1:
		w.do(c.NodeEnded(Why(rng.IntN(3)), rng.IntN(2) == 0))
	case 2:
		w.part([]string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no",
			"o", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n", "what?"}[rng.IntN(6)])
	case 3:
		switch {
		case w.inside && rng.IntN(2) == 0:
			w.do(c.Cuts())
		case w.inside && c.Lasting() != Ends:
			d, _ := c.Yields()
			w.do(d)
		}
	case 4:
		w.do(c.Wrote())
	case 5:
		w.do(c.Late(rng.IntN(2) == 0))
		if rng.IntN(9) == 0 {
			w.do(c.Retire())
		}
	default:
		w.goOn(rng)
	}
}

// goOn does the next of what a driver does by itself.
func (w *walker) goOn(rng *rand.Rand) {
	c := &w.c
	switch c.Phase() {
	case Idle, Taking:
		turn, d := c.Ready()
		w.do(d)
		if turn != Take || rng.IntN(3) == 0 {
			return // more of it is to come
		}
		text := []string{wholeCall, longCall, "\x16"}[rng.IntN(3)]
		req, _, how := c.Request([]byte(text), 1<<10, 8)
		c.Begin(req, how, req.Method == "GET")
		w.on = true
		w.begun++
	case Held:
		if rng.IntN(8) == 0 {
			w.refused()
			return
		}
		c.Enter()
		w.inside = true
	case Inside:
		switch rng.IntN(6) {
		case 0:
			w.inside = !c.Leave()
		case 1:
			c.SimulatedPart(rng.IntN(2) == 0, false)
			w.do(c.Simulated(tally.Answered, rng.IntN(2) == 0))
		case 2:
			w.refused()
		default:
			if !c.Sends(!c.Usable(), rng.IntN(2) == 0) {
				w.refused()
			}
		}
	case AtNode, Answering, Early:
		if more, certain := c.BodyLeft(); more && certain == 99 {
			c.BodyMoved(99)
			w.do(c.Passed())
		}
	case Opaque:
		w.do(c.Finish())
	}
}

// Whatever comes in whatever order, each call that began ends once, and leaves the
// gate if and only if it is in: a drain that waits for it ends.
func TestWalk(t *testing.T) {
	seen := map[Phase]bool{}
	for seed := range uint64(20_000) {
		rng := rand.New(rand.NewPCG(seed, 7))
		w := &walker{}
		for range 60 {
			w.step(rng)
			seen[w.c.Phase()] = true
			if w.on != w.c.Calling() && w.fault == "" {
				w.fault = fmt.Sprintf("a call is on: %v, but the phase is %v", w.on, w.c.Phase())
			}
			if w.fault != "" {
				t.Fatalf("seed %d: %s", seed, w.fault)
			}
		}
		w.do(w.c.Finish())
		if w.fault != "" || w.begun != w.ended || w.inside {
			t.Fatalf("seed %d: %s; %d calls began, %d ended, inside %v", seed, w.fault, w.begun, w.ended, w.inside)
		}
	}
	for p := range phases {
		if p != Frames && p != Handing && !seen[p] {
			t.Errorf("the walk never came to %v", p)
		}
	}
}

// A driver that does what must not follow is stopped.
func TestForbidden(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a call that was not let in was sent")
		}
	}()
	c := &Conn{}
	c.Ready()
	c.Sends(true, false)
}

// A caller who breaks away while its request is being taken, as is found when what the
// node says unasked cannot be written to it, leaves a connection that can be handed on.
func TestBrokenWhileTaken(t *testing.T) {
	c := &Conn{}
	c.Ready()
	if do := c.NodeEnded(CallerBroke, false); do.Caller != Break {
		t.Errorf("%+v, want the caller's connection broken", do)
	}
	if _, gone := c.Left(); !gone {
		t.Error("the caller is not taken for gone")
	}
	c.HandOver() // panics where the state forgot that a request is being taken
}
