package simlayer

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/simlayer/attach"
	"moult/simlayer/packets/packetstest"
	"moult/simlayer/so"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

func udpVersion(t testing.TB, l *Layer, v bundle.Version) string {
	t.Helper()
	return strings.TrimPrefix(versionURL(t, l, v), "http://")
}

func udpCalls(l *Layer, v bundle.Version) tally.Calls { return l.Stats().Services["api"][v] }

// Callers of each version reach whoever answers it, and nobody where that is what
// an author said; each counts.
func TestUDPService(t *testing.T) {
	l := startLayer(t, bundle.ProtocolUDP, nil)
	node, _ := packetstest.Node(t, "node ", "127.0.0.1:0")
	object, _ := packetstest.Node(t, "object ", "127.0.0.1:0")
	apply(t, l, Routing{Native: 3, Backends: backends(node), Objects: map[bundle.Version]Object{
		2: {Local: so.Compatible()},
		1: {Addrs: backends(object)},
		4: {Local: so.Refuse("no")},
		5: {Addrs: map[string]string{}},
	}})
	if got := slices.Sorted(maps.Keys(l.Addresses()["api"].Versions)); !slices.Equal(got, []bundle.Version{1, 2, 3, 4, 5}) {
		t.Fatalf("addresses for %v", got)
	}
	for addr, want := range map[string]string{
		l.Addresses()["api"].Public: "node hi", udpVersion(t, l, 3): "node hi", udpVersion(t, l, 2): "node hi", udpVersion(t, l, 1): "object hi",
	} {
		c := packetstest.Dial(t, addr)
		packetstest.Send(t, c, "hi")
		packetstest.Want(t, c, want)
	}
	for _, v := range []bundle.Version{4, 5} {
		packetstest.Send(t, packetstest.Dial(t, udpVersion(t, l, v)), "hi")
	}
	eventually(t, "the refused ones count", func() bool {
		four, five := udpCalls(l, 4), udpCalls(l, 5)
		return four.Calls == 1 && four.Denied == 1 && five.Calls == 1 && five.Errors == 1 && five.Denied == 0
	})
	for v, n := range map[bundle.Version]int64{1: 1, 2: 1, 3: 2} {
		if c := udpCalls(l, v); c.Calls != n || c.Errors+c.Denied != 0 {
			t.Errorf("version %d: %+v", v, c)
		}
	}

	// A version that is retired has no address any more; its object's sessions end.
	old := udpVersion(t, l, 1)
	apply(t, l, Routing{Native: 3, Backends: backends(node)})
	again, err := net.ListenPacket("udp", old)
	if err != nil {
		t.Fatalf("the address of a retired version is still taken: %v", err)
	}
	again.Close()
}

// A node is replaced under callers that wait for each answer before they ask
// again: what was asked is answered, by the old node or by the new one.
func TestUDPSwap(t *testing.T) {
	l := startLayer(t, bundle.ProtocolUDP, nil)
	node, stop := slowUDPNode(t, "1")
	apply(t, l, Routing{Native: 1, Backends: backends(node)})
	l.answerTime = time.Minute // a busy machine is slow
	const callers = 20
	at := func(i int) string {
		if i%2 == 0 {
			return l.Addresses()["api"].Public
		}
		return udpVersion(t, l, 1)
	}
	type heard struct {
		by    map[byte]int
		wrong []string
	}
	done, results := make(chan struct{}), make(chan heard, callers)
	for i := range callers {
		c := packetstest.Dial(t, at(i))
		go func() {
			h := heard{by: map[byte]int{}}
			defer func() { results <- h }()
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				said := fmt.Sprint(" ", i, " ", n)
				if _, err := c.Write([]byte(said)); err != nil {
					h.wrong = append(h.wrong, err.Error())
					return
				}
				got, err := packetstest.Hear(c)
				if err != nil || len(got) < 1 || got[1:] != said {
					h.wrong = append(h.wrong, fmt.Sprintf("said %q, heard %q, %v", said, got, err))
					return
				}
				h.by[got[0]]++
			}
		}()
	}
	calls := func() (n int64) {
		for _, c := range l.Stats().Services["api"] {
			n += c.Calls
		}
		return n
	}
	flow := func() {
		before := calls()
		eventually(t, "calls to go on", func() bool { return calls() > before+10*callers })
	}
	for v := bundle.Version(2); v <= 4; v++ {
		flow()
		if n, err := l.Drain(t.Context()); n != 0 || err != nil {
			t.Fatal(n, err)
		}
		stop()
		eventually(t, "callers wait", func() bool { return l.Stats().Held > 0 })
		node, stop = slowUDPNode(t, fmt.Sprint(v))
		// The newest node answers callers of 1 by a compatible chain.
		objects := map[bundle.Version]so.Object{}
		for w := bundle.Version(1); w < v; w++ {
			objects[w] = so.Compatible()
		}
		apply(t, l, Routing{Native: v, Backends: backends(node), Objects: InProcess(objects)})
	}
	flow()
	close(done)
	by := map[byte]int{}
	for range callers {
		h := <-results
		for _, wrong := range h.wrong {
			t.Error(wrong)
		}
		for node, n := range h.by {
			by[node] += n
		}
	}
	t.Logf("answers by node: %v", by)
	if len(by) != 4 {
		t.Errorf("answers by %d nodes, want 4", len(by))
	}
	stats := l.Stats().Services["api"]
	if stats[1].Held == 0 || stats[1].LongestHold == 0 || stats[1].Errors+stats[4].Errors != 0 {
		t.Errorf("%+v", stats)
	}
}

// slowUDPNode answers each datagram a little later, as nodes do; stop ends it at
// once, with whatever it has not answered yet.
func slowUDPNode(t *testing.T, name string) (at string, stop func()) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	type question struct {
		text string
		from net.Addr
	}
	asked := make(chan question, 1000)
	go func() {
		defer close(asked)
		buf := make([]byte, packetstest.Max)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			asked <- question{string(buf[:n]), from}
		}
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Microsecond)
		defer tick.Stop()
		for q := range asked {
			<-tick.C
			_, _ = c.WriteTo([]byte(name+q.text), q.from)
		}
	}()
	stop = func() {
		c.Close()
		<-ended
	}
	t.Cleanup(stop)
	return c.LocalAddr().String(), stop
}

// A drain waits for answers that are due, and no longer than it must.
func TestUDPDrain(t *testing.T) {
	if !udpDrain(t, true) {
		t.Error("the drain did not wait for the answer")
	}
}

// The test above catches a drain that does not wait.
func TestUDPDrainCatches(t *testing.T) {
	if udpDrain(t, false) {
		t.Error("an answer came from a node that was stopped before")
	}
}

func udpDrain(t *testing.T, wait bool) (heard bool) {
	l := startLayer(t, bundle.ProtocolUDP, nil)
	node, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	apply(t, l, Routing{Native: 1, Backends: backends(node.LocalAddr().String())})
	c := packetstest.Dial(t, l.Addresses()["api"].Public)
	packetstest.Send(t, c, "hi")
	buf := make([]byte, 10)
	n, from, err := node.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if wait {
		l.answerTime = time.Minute // a busy machine is slow
	} else {
		cancel()
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = l.Drain(ctx)
	}()
	if wait {
		eventually(t, "the gate is closed", func() bool { return !l.gate.IsOpen() })
		if _, err := node.WriteTo(buf[:n], from); err != nil {
			t.Fatal(err)
		}
	}
	<-drained
	node.Close()
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	_, err = c.Read(buf)
	// A second drain, with nothing due, ends by itself; so does one whose node
	// says nothing.
	if _, err := l.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	return err == nil
}

// Calls are held before the first routing, and for as long as it says.
func TestUDPHold(t *testing.T) {
	l := startLayer(t, bundle.ProtocolUDP, nil)
	c := packetstest.Dial(t, l.Addresses()["api"].Public)
	packetstest.Send(t, c, "early")
	eventually(t, "it waits", func() bool { return l.Stats().Held == 1 })
	node, _ := packetstest.Node(t, "", "127.0.0.1:0")
	apply(t, l, Routing{Native: 1, Backends: backends(node)})
	packetstest.Want(t, c, "early")
	apply(t, l, Routing{Native: 1, Down: true, HoldTimeout: 20 * time.Millisecond})
	packetstest.Send(t, c, "late")
	eventually(t, "it is dropped", func() bool { return udpCalls(l, 1).Errors == 1 && l.Stats().Held == 0 })
	if c := udpCalls(l, 1); c.Calls != 2 || c.Held != 2 || c.LongestHold < 20*time.Millisecond {
		t.Errorf("%+v", c)
	}
	packetstest.Send(t, c, "waits")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// Of an object's calls are the datagrams that pass by it, and not those that were dropped
// while the node was down. A node that has come since has none of them.
func TestUDPObjectsCalls(t *testing.T) {
	l := startLayer(t, bundle.ProtocolUDP, nil)
	node, _ := packetstest.Node(t, "", "127.0.0.1:0")
	r := Routing{Native: 2, Backends: backends(node), Objects: InProcess(map[bundle.Version]so.Object{1: so.Compatible()})}
	apply(t, l, r)
	c := packetstest.Dial(t, udpVersion(t, l, 1))
	packetstest.Send(t, c, "passes")
	packetstest.Want(t, c, "passes")
	way := packetWay{l.versionedOf(l.services["api"], 1)}
	before := way.Way()
	r.Down, r.HoldTimeout = true, 20*time.Millisecond
	apply(t, l, r)
	packetstest.Send(t, c, "late")
	eventually(t, "it is dropped", func() bool { return udpCalls(l, 1).Errors == 1 })
	if s := l.Stats(); s.Past[1].Calls != 1 || len(s.Future) != 0 {
		t.Errorf("past %+v, future %+v, want one call of the past one", s.Past, s.Future)
	}
	apply(t, l, Routing{Native: 1, Backends: backends(node)})
	way.Count(before, tally.Answered, 0)
	if got := l.Stats().Past[1].Calls; got != 2 {
		t.Errorf("%d calls, want the one that passed on late too", got)
	}
}

// Callers by UDP count among the connections that a layer may have.
func TestUDPConns(t *testing.T) {
	l := startLayer(t, bundle.ProtocolUDP, func(c *Config) { c.Limits = Limits{Held: 1, Conns: 2} })
	node, _ := packetstest.Node(t, "", "127.0.0.1:0")
	apply(t, l, Routing{Native: 1, Backends: backends(node)})
	for range 2 {
		c := packetstest.Dial(t, l.Addresses()["api"].Public)
		packetstest.Send(t, c, "hi")
		packetstest.Want(t, c, "hi")
	}
	packetstest.Send(t, packetstest.Dial(t, udpVersion(t, l, 1)), "one too many")
	eventually(t, "it is dropped", func() bool { return udpCalls(l, 1).Errors == 1 })
	if n := l.conns.Open(); n != 2 {
		t.Errorf("%d connections count, want 2", n)
	}
}

func TestUDPConfig(t *testing.T) {
	busy, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for _, c := range []struct {
		service Service
		want    string
	}{
		{Service{Public: busy.LocalAddr().String(), Protocol: bundle.ProtocolUDP}, "(udp) is in use"},
	} {
		l, err := Start(Config{Services: map[string]Service{"api": c.service}})
		if err == nil {
			l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q in it", err, c.want)
		}
	}
	l := startLayer(t, bundle.ProtocolUDP, nil)
	node, _ := packetstest.Node(t, "", "127.0.0.1:0")
	apply(t, l, Routing{Native: 1, Backends: backends(node)})
	for addr, want := range map[string]string{
		"unix:/tmp/x":               "want host:port for a service that speaks udp",
		l.Addresses()["api"].Public: "the layer's own address",
		udpVersion(t, l, 1):         "the layer's own address",
	} {
		if err := l.Apply(Routing{Native: 1, Backends: backends(addr)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("backend %s: %v, want %q in it", addr, err, want)
		}
	}
}

// Two services of a node have one number, and the same ports for their versions: one of
// TCP and one of UDP.
func TestUDPBesideTCP(t *testing.T) {
	for _, way := range []Attach{AttachRelay, AttachInherit} {
		if way == AttachInherit && attach.Probe(attach.KindInherit) != nil {
			continue
		}
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		public := free.Addr().String()
		free.Close()
		l := startLayer(t, bundle.ProtocolUDP, func(c *Config) {
			c.Services["api"] = Service{Public: public, Protocol: bundle.ProtocolUDP, Attach: way}
			c.Services["raw"] = Service{Public: public, Protocol: bundle.ProtocolTCP, Attach: way}
		})
		node, _ := packetstest.Node(t, "udp ", "127.0.0.1:0")
		stream, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		go func() {
			for {
				c, err := stream.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, "tcp")
				c.Close()
			}
		}()
		apply(t, l, Routing{Native: 1, Backends: map[string]string{"api": node, "raw": stream.Addr().String()}})
		c := packetstest.Dial(t, public)
		packetstest.Send(t, c, "hi")
		packetstest.Want(t, c, "udp hi")
		tcp, err := net.Dial("tcp", public)
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(tcp)
		tcp.Close()
		if string(said) != "tcp" || err != nil {
			t.Errorf("%q, %v", said, err)
		}
		l.Close()
	}
}
