package simlayer

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"moult/simlayer/so"
	"moult/store/bundle"
)

// stepNode is a node of which the test takes each request, and which it answers.
type stepNode struct {
	t    *testing.T
	ln   net.Listener
	conn net.Conn
	br   *bufio.Reader
}

func startStepNode(t *testing.T) (n *stepNode, backend string) {
	ln, backend := listenNode(t, "unix")
	return &stepNode{t: t, ln: ln}, backend
}

// accept takes the next connection.
func (n *stepNode) accept() {
	n.t.Helper()
	_ = n.ln.(*net.UnixListener).SetDeadline(time.Now().Add(hang))
	conn, err := n.ln.Accept()
	if err != nil {
		n.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(hang))
	n.t.Cleanup(func() { conn.Close() })
	n.conn, n.br = conn, bufio.NewReader(conn)
}

// take returns the next request in a few words.
func (n *stepNode) take() string {
	n.t.Helper()
	r, err := http.ReadRequest(n.br)
	if err != nil {
		n.t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return fmt.Sprintf("%s %s %s", r.Method, r.URL.Path, body)
}

func (n *stepNode) say(text string) {
	n.t.Helper()
	if _, err := io.WriteString(n.conn, text); err != nil {
		n.t.Fatal(err)
	}
}

func putOf(path, body string) string {
	return fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

func answerOf(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// laneRules make one call of one, and two of another.
const laneRules = `
call "PUT /one/{key}" {
  next "PUT /new/{key}" {
    body = "{new: .body.old}"
  }
  response "200" {
    body = "{old: .body.new, was: .request.body.old}"
  }
}
call "PUT /two/{key}" {
  step "first" "PUT /first/{key}" {
    body = "{first: .body.old}"
  }
  next "PUT /second/{key}" {
    body = "{second: .steps.first.body.n}"
  }
}
call "GET /never" {
  deny {
    reason = "not in version 2"
  }
}
default { pass = true }
`

// inSimLane makes a connection whose calls are simulated in a lane.
func inSimLane(t *testing.T) (l *Layer, c *rawCaller, n *stepNode) {
	if !hasLanes() {
		t.Skip("there are no lanes with one processor")
	}
	n, backend := startStepNode(t)
	l = startLayer(t, bundle.ProtocolHTTP, nil)
	l.laneMost = 1
	apply(t, l, laneRouting(t, backend))
	c = rawTo(t, l.Addresses()["api"].Public)
	_ = c.SetDeadline(time.Now().Add(hang))
	c.say(getOf("/"))
	n.accept()
	n.take()
	n.say(okAnswer)
	c.hear()
	inLaneNow(t, l, 1)
	return l, c, n
}

func laneRouting(t *testing.T, backend string) Routing {
	rules, err := so.ParseRules([]byte(laneRules), "lane.hcl")
	if err != nil {
		t.Fatal(err)
	}
	return Routing{Native: 2, Backends: backends(backend), Objects: InProcess(map[bundle.Version]so.Object{1: rules}), External: 1}
}

func inLaneNow(t *testing.T, l *Layer, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d connections in lanes", want), func() bool { return l.lanes.taken() == want })
}

// oneCall makes a simulated call, and checks it.
func oneCall(t *testing.T, c *rawCaller, n *stepNode, key string) {
	t.Helper()
	c.say(putOf("/one/"+key, `{"old":"`+key+`"}`))
	if got, want := n.take(), `PUT /new/`+key+` {"new":"`+key+`"}`; got != want {
		t.Fatalf("the node got %q, want %q", got, want)
	}
	n.say(answerOf(`{"new":"re ` + key + `"}`))
	if resp, body := c.hear(); resp.StatusCode != 200 || body != `{"old":"re `+key+`","was":"`+key+`"}` {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
}

// Plain simulated calls keep their connection in its lane, with answers in pieces
// and several calls of the node, too; calls of others go on in between.
func TestLeanLaneStays(t *testing.T) {
	l, c, n := inSimLane(t)
	other := rawTo(t, l.Addresses()["api"].Public)
	_ = other.SetDeadline(time.Now().Add(hang))
	m := &stepNode{t: t, ln: n.ln}
	other.say(getOf("/"))
	m.accept()
	m.take()
	m.say(okAnswer)
	other.hear()
	inLaneNow(t, l, 2)
	for i := range 20 {
		c.say(putOf("/one/a", fmt.Sprintf(`{"old":%d}`, i)))
		if got, want := n.take(), fmt.Sprintf(`PUT /new/a {"new":%d}`, i); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
		oneCall(t, other, m, fmt.Sprint("b", i)) // in the midst of the other
		head, rest, _ := strings.Cut(answerOf(`{"new":"x"}`), "\n")
		n.say(head + "\n")
		oneCall(t, other, m, "c")
		n.say(rest)
		if _, body := c.hear(); body != fmt.Sprintf(`{"old":"x","was":%d}`, i) {
			t.Fatal(body)
		}
		other.say(putOf("/two/d", `{"old":"o"}`))
		if got := m.take(); got != `PUT /first/d {"first":"o"}` {
			t.Fatal(got)
		}
		oneCall(t, c, n, "e")
		m.say(answerOf(`{"n":3}`))
		if got := m.take(); got != `PUT /second/d {"second":3}` {
			t.Fatal(got)
		}
		m.say(answerOf(`{}`))
		if _, body := other.hear(); body != `{}` {
			t.Fatal(body)
		}
	}
	if l.lanes.taken() != 2 {
		t.Error("they have left their lanes")
	}
}

// leanLeaves are what makes a call leave its lane in the midst: it goes on there.
var leanLeaves = map[string]func(t *testing.T, l *Layer, c *rawCaller, n *stepNode){
	"the caller's next request": func(t *testing.T, l *Layer, c *rawCaller, n *stepNode) {
		c.say(putOf("/one/a", `{"old":1}`))
		n.take()
		c.say(putOf("/one/b", `{"old":2}`)[:30])
		inLaneNow(t, l, 0)
		n.say(answerOf(`{"new":3}`))
		if _, body := c.hear(); body != `{"old":3,"was":1}` {
			t.Fatal(body)
		}
		c.say(putOf("/one/b", `{"old":2}`)[30:])
		if got := n.take(); got != `PUT /new/b {"new":2}` {
			t.Fatal(got)
		}
		n.say(answerOf(`{"new":4}`))
		if _, body := c.hear(); body != `{"old":4,"was":2}` {
			t.Fatal(body)
		}
	},
	"a long answer": func(t *testing.T, l *Layer, c *rawCaller, n *stepNode) {
		long := strings.Repeat("l", 2*relayBuffer)
		c.say(putOf("/one/a", `{"old":1}`))
		n.take()
		n.say(answerOf(`{"new":"` + long + `"}`))
		if _, body := c.hear(); body != `{"old":"`+long+`","was":1}` {
			t.Fatalf("%.40s", body)
		}
	},
	"chunks": func(t *testing.T, l *Layer, c *rawCaller, n *stepNode) {
		c.say(putOf("/one/a", `{"old":1}`))
		n.take()
		n.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{\"new\":5}\r\n")
		inLaneNow(t, l, 0)
		n.say("0\r\n\r\n")
		if _, body := c.hear(); body != `{"old":5,"was":1}` {
			t.Fatal(body)
		}
	},
	"an interim answer": func(t *testing.T, _ *Layer, c *rawCaller, n *stepNode) {
		c.say(putOf("/one/a", `{"old":1}`))
		n.take()
		n.say("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
		if resp, err := http.ReadResponse(c.br, nil); err != nil || resp.StatusCode != 103 {
			t.Fatal(resp, err)
		}
		n.say(answerOf(`{"new":2}`))
		if _, body := c.hear(); body != `{"old":2,"was":1}` {
			t.Fatal(body)
		}
	},
	"a refusal": func(t *testing.T, _ *Layer, c *rawCaller, _ *stepNode) {
		c.say(getOf("/never"))
		if resp, body := c.hear(); resp.StatusCode != 501 || !strings.Contains(body, "not in version 2") {
			t.Fatal(resp.Status, body)
		}
	},
	"the end of a kept connection": func(t *testing.T, _ *Layer, c *rawCaller, n *stepNode) {
		c.say(getOf("/a"))
		n.take()
		n.conn.Close()
		n.accept() // nothing was said, so it is tried anew
		if got := n.take(); got != "GET /a " {
			t.Fatal(got)
		}
		n.say(okAnswer)
		if _, body := c.hear(); body != "ok" {
			t.Fatal(body)
		}
	},
	"an end that fails the call": func(t *testing.T, _ *Layer, c *rawCaller, n *stepNode) {
		c.say(putOf("/one/a", `{"old":1}`))
		n.take()
		n.say("HTTP/1.1 200")
		n.conn.Close()
		if resp, body := c.hear(); resp.StatusCode != 502 || !strings.Contains(body, "whether it has carried out") {
			t.Fatal(resp.Status, body)
		}
		c.say(getOf("/"))
		n.accept()
		n.take()
		n.say(okAnswer)
		c.hear()
	},
	"a closed gate": func(t *testing.T, l *Layer, c *rawCaller, n *stepNode) {
		l.gate.hold()
		c.say(putOf("/one/a", `{"old":1}`))
		eventually(t, "a call held", func() bool { return l.Stats().Held == 1 })
		apply(t, l, laneRouting(t, "unix:"+n.ln.Addr().String()))
		if got := n.take(); got != `PUT /new/a {"new":1}` {
			t.Fatal(got)
		}
		n.say(answerOf(`{"new":2}`))
		if _, body := c.hear(); body != `{"old":2,"was":1}` {
			t.Fatal(body)
		}
		// Whoever waited is served by run at first.
		oneCall(t, c, n, "b")
	},
}

func TestLeanLaneLeaves(t *testing.T) {
	for name, leave := range leanLeaves {
		t.Run(name, func(t *testing.T) {
			l, c, n := inSimLane(t)
			for range 3 {
				leave(t, l, c, n)
				oneCall(t, c, n, "z")
				inLaneNow(t, l, 1)
			}
			eventually(t, "no call at the node", func() bool { return l.Stats().InFlight == 0 })
		})
	}
}

// Many callers at once each get their own answers.
func TestLeanLaneMany(t *testing.T) {
	if !hasLanes() {
		t.Skip("there are no lanes with one processor")
	}
	node := startNode(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // the answer tells
		fmt.Fprintf(w, `{"new":%q}`, r.URL.Path+" "+string(body))
	})
	l := startLayer(t, bundle.ProtocolHTTP, nil)
	apply(t, l, laneRouting(t, addrOf(node)))
	var wg sync.WaitGroup
	for i := range 16 {
		c := rawTo(t, l.Addresses()["api"].Public)
		_ = c.SetDeadline(time.Now().Add(hang))
		wg.Go(func() {
			for j := range 100 {
				c.say(putOf(fmt.Sprintf("/one/%d", i), fmt.Sprintf(`{"old":%d}`, j)))
				if _, body := c.hear(); body != fmt.Sprintf(`{"old":"/new/%d {\"new\":%d}","was":%d}`, i, j, j) {
					t.Errorf("caller %d, call %d: %s", i, j, body)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := l.lanes.taken(); n == 0 {
		t.Error("nobody is in a lane")
	}
}

// A caller that goes while its call is in a lane takes the call along.
func TestLeanLaneCallerGoes(t *testing.T) {
	for name, leave := range map[string]func(*rawCaller){
		"close": func(c *rawCaller) { c.Close() },
		"reset": func(c *rawCaller) { reset(c.TCPConn) },
	} {
		t.Run(name, func(t *testing.T) {
			l, c, n := inSimLane(t)
			c.say(getOf("/a"))
			n.take()
			leave(c)
			if _, err := n.br.ReadByte(); err == nil {
				t.Error("the node hears more")
			}
			_, _ = io.WriteString(n.conn, okAnswer) // for one that only said no more
			n.conn.Close()
			eventually(t, "no connection", func() bool { return l.conns.Load() == 0 && l.Stats().InFlight == 0 })
			if s := l.Stats().Services["api"][1]; s.Calls != 2 || s.Errors != 0 || s.Open != 0 {
				t.Errorf("%+v, want two calls and no error", s)
			}
		})
	}
}

// A drain cuts a call that is in a lane, and tells its caller.
func TestLeanLaneCut(t *testing.T) {
	l, c, n := inSimLane(t)
	c.say(putOf("/one/a", `{"old":1}`))
	n.take()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := l.Drain(ctx); n != 1 || err == nil {
		t.Errorf("Drain: %d, %v; want one call cut", n, err)
	}
	if resp, body := c.hear(); resp.StatusCode != 503 || !resp.Close || !strings.Contains(body, "not known") {
		t.Errorf("%s %s", resp.Status, body)
	}
	eventually(t, "one error", func() bool {
		s := l.Stats().Services["api"][1]
		return s.Errors == 1 && s.Open == 0 && l.Stats().InFlight == 0
	})
}

// While a drain goes on, the answer of a call in a lane is the last.
func TestLeanLaneDrain(t *testing.T) {
	l, c, n := inSimLane(t)
	c.say(putOf("/one/a", `{"old":1}`))
	n.take()
	l.gate.hold()
	n.say(answerOf(`{"new":2}`))
	if resp, body := c.hear(); body != `{"old":2,"was":1}` || !resp.Close {
		t.Errorf("%s, close %v", body, resp.Close)
	}
	if _, err := c.br.ReadByte(); err != io.EOF {
		t.Errorf("after the last answer: %v", err)
	}
	c.Close()
	eventually(t, "no connection", func() bool { return l.conns.Load() == 0 })
}

// A node that does not read for a time gets all of a request in the end.
func TestLeanLaneSlowNode(t *testing.T) {
	l, c, n := inSimLane(t)
	body := func(i int) string { return strings.Repeat(fmt.Sprint(i%10), 14_000) }
	sent := 0
	for ; ; sent++ {
		if sent == 1000 {
			t.Fatal("the node's connection takes everything")
		}
		// GET, so that a node that answers too early is taken at its word.
		c.say(strings.Replace(putOf(fmt.Sprint("/", sent), body(sent)), "PUT", "GET", 1))
		eventually(t, "a call at the node", func() bool { return l.Stats().InFlight == 1 })
		// It is in its lane until the node takes no more.
		n.say(okAnswer)
		done := l.lanes.taken() == 0
		eventually(t, "an answer, or the call stuck", func() bool {
			done = l.lanes.taken() == 0
			return done || l.Stats().InFlight == 0
		})
		if done {
			break
		}
		if _, body := c.hear(); body != "ok" {
			t.Fatal(body)
		}
	}
	for i := range sent + 1 {
		if got, want := n.take(), fmt.Sprintf("GET /%d %s", i, body(i)); got != want {
			t.Fatalf("request %d: %.40q", i, got)
		}
	}
	if _, body := c.hear(); body != "ok" {
		t.Fatal(body)
	}
	oneCall(t, c, n, "z")
	inLaneNow(t, l, 1)
}
