package relay

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"moult/simlayer/tally"
)

// TestScripts runs the interleavings in testdata against a driver that only writes
// down what a real one would do. Commands, of which each prints that and the phase:
//
//	new                  a connection that has said nothing
//	caller TEXT…         the caller says something, quoted as in Go
//	caller end | gone    it has said all, or has gone
//	enter [via]          the gate lets the call in, to the node or an object process
//	dialled [lean]       a connection to the node is there; lean: none is needed, for
//	                     the call is simulated
//	leave                the call has to enter again
//	node TEXT… [polite]  the node says something; polite: it goes down
//	node closes | breaks its connection ends; left: so have all others
//	wrote | unwritten    the last of an answer was written, or could not be
//	stuck                the node takes no more of the request
//	simulates            a simulated call is sent to the node, and may be sent again
//	simulated            the call was answered by a simulation object
//	refused              it gets no answer of the node
//	yields               the gate has a call end that may go on for ever
//	cut | retire | late  the gate cuts it; the address is given up; a timer is over
//	finish               all bytes of an opaque connection have passed
//	move | moved         bytes of an answer that are certain to come pass unseen
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{}
		datadriven.RunTest(t, path, s.run)
	})
}

// script is a driver without sockets.
type script struct {
	c    *Conn
	here string // of the caller, that has not passed
	head string // of the node, that has not passed
	via  bool
	out  strings.Builder
	kept string // a whole request, or the head of one
	how  How
	sent bool // the head of a request has passed, and its body follows

	moving int64 // bytes of an answer that pass unseen
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	s.out.Reset()
	args := words(d)
	switch d.Cmd {
	case "new":
		*s = script{c: &Conn{}}
	case "caller":
		s.caller(t, args)
	case "enter":
		s.c.Enter()
		s.via = len(args) > 0
	case "dialled":
		s.dialled(args)
	case "leave":
		if s.c.TakenBack() {
			s.say("taken back")
		}
		s.say("inside %v", s.c.Leave())
	case "node":
		s.node(t, args)
	case "wrote":
		s.do(s.c.Wrote())
		s.request()
	case "unwritten":
		s.do(s.c.Lose(tally.Canceled))
	case "stuck":
		s.c.Stuck()
	case "simulates":
		s.c.SimulatedSends(true)
	case "simulated":
		s.do(s.c.Simulated(tally.Answered, len(args) > 0))
	case "refused":
		answer, do := s.c.Refused(tally.Failed, false)
		s.say("answer %v", answer)
		s.do(do)
	case "cut":
		s.do(s.c.Cuts())
	case "yields":
		lasting := s.c.Lasting()
		do, again := s.c.Yields()
		s.say("it %s, again %v", [...]string{"ends", "polls", "streams", "is endless"}[lasting], again)
		s.do(do)
	case "retire":
		s.do(s.c.Retire())
	case "late":
		s.do(s.c.Late(true))
	case "finish":
		s.do(s.c.Finish())
	case "move":
		s.moving = s.c.Movable()
		s.say("%d bytes", s.moving)
	case "moved":
		s.do(s.c.Moved(s.moving).Do)
	default:
		t.Fatalf("unknown command %q", d.Cmd)
	}
	s.say("-- %v", s.c.Phase())
	return s.out.String()
}

// words are the arguments of a command: what follows it in its line.
func words(d *datadriven.TestData) (all []string) {
	for _, line := range strings.Split(d.Input, "\n") {
		if line != "" {
			all = append(all, line)
		}
	}
	for _, arg := range d.CmdArgs {
		all = append(all, arg.Key)
	}
	return all
}

func (s *script) say(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

// do writes down what is to be done.
func (s *script) do(d Do) {
	if d.Cancel {
		s.say("cancel")
	}
	if d.Node != Keep {
		s.say("to the node: %s", [...]string{"", "half close", "", "hush", "close", "reset"}[d.Node])
	}
	if d.Ended {
		s.say("ended: %s%s", [...]string{"answered", "failed", "denied", "canceled"}[d.Outcome], map[bool]string{true: ", leave"}[d.Leave])
	}
	if d.Caller != Keep {
		s.say("to the caller: %s", [...]string{"", "half close", "shut", "hush", "close", "reset"}[d.Caller])
	}
	if d.Timer != Same {
		s.say("timer: %s", [...]string{"", "none", "head", "grace", "linger"}[d.Timer])
	}
	if d.Next != GoOn {
		s.say("next: %s", [...]string{"", "stop", "again", "refuse as cut", "refuse"}[d.Next])
	}
}

func (s *script) caller(t *testing.T, args []string) {
	switch args[0] {
	case "end", "gone":
		s.do(s.c.CallerEnded(args[0] == "gone"))
		return
	}
	for _, arg := range args {
		text, err := strconv.Unquote(arg)
		if err != nil {
			t.Fatalf("%s: %v", arg, err)
		}
		s.here += text
	}
	if s.sent {
		s.more()
		return
	}
	s.request()
}

// request takes the next request, if it is one's turn.
func (s *script) request() {
	if s.here == "" {
		return
	}
	turn, do := s.c.Ready()
	s.do(do)
	switch turn {
	case Wait:
		s.say("wait")
	case Pass:
		s.toNode(len(s.here))
	case Discard:
		s.say("discard %d", len(s.here))
		s.here = ""
	case Hand:
		s.say("hand over %q", s.here)
	case Take:
		s.take()
	}
}

func (s *script) take() {
	const room, replay = 64, 16 // bytes
	req, size, how := s.c.Request([]byte(s.here), room, replay)
	switch how {
	case More:
		s.say("more, %d in all", size)
		return
	case HTTP2:
		s.c.SpeaksFrames()
		return
	case TooLong, Foreign:
		s.c.HandOver()
		s.say("hand over %q", s.here)
		return
	}
	s.say("%s %s, %d bytes", [...]string{"", "whole", "stream", "odd"}[how], req.Method, size)
	s.c.Begin(req, how, req.Method == "GET")
	s.how, s.kept, s.here, s.head = how, s.here[:size], s.here[size:], ""
}

func (s *script) dialled(args []string) {
	if len(args) > 0 {
		return
	}
	if !s.c.Sends(!s.c.Usable(), s.via) {
		s.say("cut meanwhile")
		return
	}
	s.say("to the node: %q", s.kept)
	s.sent = s.how != Whole
	if s.sent && s.here != "" {
		s.more()
	}
}

// more takes more of the body of a request.
func (s *script) more() {
	if s.c.Phase() == Opaque {
		s.toNode(len(s.here))
		return
	}
	n, ok := s.c.Body([]byte(s.here))
	if !ok {
		s.c.Lost()
		n = len(s.here)
	}
	s.toNode(n)
	if more, _ := s.c.BodyLeft(); ok && !more {
		s.sent = false
		s.do(s.c.Passed())
		s.request()
	}
}

func (s *script) toNode(n int) {
	s.say("to the node: %q", s.here[:n])
	s.here = s.here[n:]
}

func (s *script) node(t *testing.T, args []string) {
	left, polite := false, false
	for _, arg := range args {
		left = left || arg == "left"
		polite = polite || arg == "polite"
	}
	switch args[0] {
	case "closes":
		s.do(s.c.NodeEnded(NodeClosed, left))
		return
	case "breaks":
		s.do(s.c.NodeEnded(NodeBroke, left))
		return
	}
	for _, arg := range args {
		if !strings.HasPrefix(arg, `"`) {
			continue
		}
		text, err := strconv.Unquote(arg)
		if err != nil {
			t.Fatalf("%s: %v", arg, err)
		}
		s.head += text
	}
	for s.head != "" {
		part := s.c.Answer([]byte(s.head), len(s.head) >= 1<<10, polite)
		s.do(part.Do)
		switch {
		case part.Keep:
			s.say("keep %q", s.head)
			return
		case part.Drop:
			s.say("drop %q", s.head)
			s.head = ""
			return
		}
		text := s.head[:part.Pass]
		if part.Insert > 0 {
			text = text[:part.Insert] + CloseLine + text[part.Insert:]
		}
		s.say("to the caller: %q", text)
		s.head = s.head[part.Pass:]
	}
}
