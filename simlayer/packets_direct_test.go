//go:build linux

package simlayer

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"moult/simlayer/packets/packetstest"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// playPacketsVar makes a program of the tests speak UDP: where it listens, perhaps
// with "shared " before it, or "inherit".
const playPacketsVar = "SIMLAYER_PLAYS_PACKETS"

// playPackets answers each datagram with its name, the address that it came from
// and the datagram. It reads nothing before it is told to, and does not return.
func playPackets(t *testing.T, name, at string) {
	var pc net.PacketConn
	var err error
	if at == "inherit" {
		f := os.NewFile(3, "inherited")
		pc, err = net.FilePacketConn(f)
		f.Close()
	} else {
		var lc net.ListenConfig
		addr, shared := strings.CutPrefix(at, "shared ")
		if shared {
			lc.Control = func(_, _ string, rc syscall.RawConn) (failed error) {
				err := rc.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
				return errors.Join(err, failed)
			}
		}
		pc, err = lc.ListenPacket(t.Context(), "udp", addr)
	}
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("> " + pc.LocalAddr().String())
	ended := make(chan struct{})
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "serve":
			go func() {
				defer close(ended)
				buf := make([]byte, packetstest.Max)
				for {
					n, from, err := pc.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = pc.WriteTo(fmt.Appendf(nil, "%s %s %s", name, from, buf[:n]), from)
				}
			}()
			fmt.Println("> serving")
		case "rest": // answers what it has read, and reads no more
			_ = pc.SetReadDeadline(time.Now())
			<-ended
			fmt.Println("> resting")
		case "close":
			pc.Close()
			fmt.Println("> closed")
		}
	}
	os.Exit(0)
}

// packetLayer starts a layer with one service of UDP, attached as given.
func packetLayer(t testing.TB, way Attach, public string, change func(*Config)) *Layer {
	if strings.HasPrefix(public, "[") {
		c, err := net.ListenPacket("udp", "[::1]:0")
		if err != nil {
			t.Skip("no IPv6 here: ", err)
		}
		c.Close()
	}
	return startLayer(t, bundle.ProtocolUDP, func(c *Config) {
		c.Services["api"] = Service{Public: public, Protocol: bundle.ProtocolUDP, Attach: way}
		if change != nil {
			change(c)
		}
	})
}

// givenPackets is given for UDP.
func givenPackets(t testing.TB, l *Layer, v bundle.Version, name string) (*program, Socket) {
	t.Helper()
	sockets, err := l.Sockets(v)
	if err != nil || len(sockets) != 1 {
		t.Fatalf("%d sockets, %v; want 1", len(sockets), err)
	}
	defer sockets[0].Close()
	p := startPlay(t, playsPackets(name, "inherit"), sockets[0].Node, sockets[0].Hold)
	if p.addr != sockets[0].Addr {
		t.Fatalf("the software has %s, was given %s", p.addr, sockets[0].Addr)
	}
	return p, sockets[0]
}

func playsPackets(name, at string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, playVar+"="+name, playPacketsVar+"="+at) }
}

// packetAnswer returns who answered a connected socket, which takes answers from the
// address that it called only, and whether the layer was not between.
func packetAnswer(t testing.TB, c *net.UDPConn, said string) (name string, direct bool) {
	t.Helper()
	got, err := packetstest.Hear(c)
	if err != nil {
		t.Fatalf("%s: no answer: %v", c.RemoteAddr(), err)
	}
	words := strings.SplitN(got, " ", 3)
	if len(words) != 3 || words[2] != said {
		t.Fatalf("%s: answered %q to %q", c.RemoteAddr(), got, said)
	}
	return words[0], words[1] == c.LocalAddr().String()
}

// wantPackets checks who answers several callers of an address, and on which way.
func wantPackets(t testing.TB, addr, name string, direct bool) {
	t.Helper()
	for i := range 8 {
		c := packetstest.Dial(t, addr)
		said := fmt.Sprint("hi ", i)
		packetstest.Send(t, c, said)
		if got, way := packetAnswer(t, c, said); got != name || way != direct {
			t.Fatalf("%s answers at %s, directly %v; want %s, %v", got, addr, way, name, direct)
		}
		c.Close()
	}
}

// eachFamily runs a test on IPv4 and on IPv6.
func eachFamily(t *testing.T, test func(t *testing.T, public string)) {
	needInherit(t)
	for _, public := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(public, func(t *testing.T) { test(t, public) })
	}
}

// TestUDPInherit leads callers to software and away from it, from its start over an
// upgrade to the next version.
func TestUDPInherit(t *testing.T) {
	eachFamily(t, func(t *testing.T, public string) {
		l := packetLayer(t, AttachInherit, public, nil)
		if addr, err := l.Aside("api", 1, ""); addr != "" || err != nil {
			t.Errorf("past software that is not there: %q, %v", addr, err)
		}
		one, _ := givenPackets(t, l, 1, "one")
		one.ask("serve")
		apply(t, l, Routing{Native: 1, Down: true})
		early := packetstest.Dial(t, one.addr)
		packetstest.Send(t, early, "early")
		eventually(t, "the caller is held", func() bool { return l.Stats().Held == 1 })
		health, err := l.Aside("api", 1, "")
		if err != nil {
			t.Fatal(err)
		}
		wantPackets(t, health, "one", false)
		apply(t, l, Routing{Native: 1, Backends: backends(one.addr)})
		if name, direct := packetAnswer(t, early, "early"); name != "one" || direct {
			t.Errorf("held: %s, directly %v", name, direct)
		}
		packetstest.Send(t, early, "later")
		if name, direct := packetAnswer(t, early, "later"); name != "one" || !direct {
			t.Errorf("who was held before: %s, directly %v", name, direct)
		}
		wantPackets(t, one.addr, "one", true)
		wantPackets(t, l.Addresses()["api"].Public, "one", false)
		if why := l.Fallen("api"); why != "" {
			t.Error(why)
		}

		if _, err := l.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		packetstest.Send(t, early, "held")
		eventually(t, "the caller is held again", func() bool { return l.Stats().Held == 1 })
		one.kill()
		l.Ended()
		two, _ := givenPackets(t, l, 2, "two")
		two.ask("serve")
		if again, err := l.Aside("api", 2, ""); again != health || err != nil {
			t.Errorf("the way aside is %s, %v; was %s", again, err, health)
		}
		wantPackets(t, health, "two", false)
		apply(t, l, Routing{Native: 2, Backends: backends(two.addr), Objects: InProcess(map[bundle.Version]so.Object{1: so.Compatible()})})
		if name, direct := packetAnswer(t, early, "held"); name != "two" || direct {
			t.Errorf("held: %s, directly %v", name, direct)
		}
		wantPackets(t, two.addr, "two", true)
		wantPackets(t, one.addr, "two", false) // its software has no socket of this address
	})
}

// TestUDPInheritCrash kills software that has not read what was sent to it, and
// starts it again: the next one answers.
func TestUDPInheritCrash(t *testing.T) {
	eachFamily(t, func(t *testing.T, public string) {
		l := packetLayer(t, AttachInherit, public, nil)
		one, _ := givenPackets(t, l, 1, "one")
		apply(t, l, Routing{Native: 1, Backends: backends(one.addr)})
		var queued []*net.UDPConn
		for range 4 {
			c := packetstest.Dial(t, one.addr)
			packetstest.Send(t, c, "queued")
			queued = append(queued, c)
		}
		one.kill()
		l.Ended() // from here on, whatever the routing says
		eventually(t, "those in the queue are held", func() bool { return l.Stats().Held == len(queued) })
		apply(t, l, Routing{Native: 1, Down: true})
		again, _ := givenPackets(t, l, 1, "again")
		again.ask("serve")
		apply(t, l, Routing{Native: 1, Backends: backends(again.addr)})
		for _, c := range queued {
			if name, direct := packetAnswer(t, c, "queued"); name != "again" || direct {
				t.Errorf("%s, directly %v", name, direct)
			}
		}
		wantPackets(t, one.addr, "again", true)
	})
}

// TestUDPInheritWithoutLayer ends the layer while the software runs: admitted, it
// serves on; not yet admitted, its callers wait for the next layer.
func TestUDPInheritWithoutLayer(t *testing.T) {
	eachFamily(t, func(t *testing.T, public string) {
		for _, admitted := range []bool{true, false} {
			l := packetLayer(t, AttachInherit, public, nil)
			p, s := givenPackets(t, l, 1, "one")
			p.ask("serve")
			apply(t, l, Routing{Native: 1, Down: !admitted, Backends: backends(p.addr)})
			next := after(l, p, s)
			l.Close()
			c := packetstest.Dial(t, p.addr)
			packetstest.Send(t, c, "hi")
			if admitted {
				wantPackets(t, p.addr, "one", true)
			}
			l = packetLayer(t, AttachInherit, public, next)
			apply(t, l, Routing{Native: 1, Down: true})
			if !admitted {
				eventually(t, "the caller is held", func() bool { return l.Stats().Held == 1 })
			}
			health, err := l.Aside("api", 1, "")
			if err != nil {
				t.Fatal(err)
			}
			wantPackets(t, health, "one", false)
			apply(t, l, Routing{Native: 1, Backends: backends(p.addr)})
			if name, direct := packetAnswer(t, c, "hi"); name != "one" || direct != admitted {
				t.Errorf("%s, directly %v", name, direct)
			}
			wantPackets(t, p.addr, "one", true)
			p.kill()
			l.Ended()
			again, _ := givenPackets(t, l, 1, "again")
			again.ask("serve")
			apply(t, l, Routing{Native: 1, Backends: backends(again.addr)})
			wantPackets(t, p.addr, "again", true)
			l.Close()
		}
	})
}

// A service on all addresses is relayed, and the layer says why.
func TestUDPInheritWildcard(t *testing.T) {
	needInherit(t)
	l := packetLayer(t, AttachInherit, "0.0.0.0:0", nil)
	if sockets, err := l.Sockets(1); len(sockets) != 0 || err != nil {
		t.Fatalf("%v, %v", sockets, err)
	}
	node, _ := packetstest.Node(t, "", "127.0.0.1:0")
	apply(t, l, Routing{Native: 1, Backends: backends(node)})
	_, port, err := net.SplitHostPort(l.versioned(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "127.0.0.2"} {
		c := packetstest.Dial(t, net.JoinHostPort(host, port))
		packetstest.Send(t, c, "hi")
		packetstest.Want(t, c, "hi")
	}
	if why := l.Fallen("api"); !strings.Contains(why, "configure one address") {
		t.Errorf("fallen: %q", why)
	}
}

// Software that still has sockets of another protocol is told of, not mistaken.
func TestUDPInheritOther(t *testing.T) {
	needInherit(t)
	l := directLayer(t, AttachInherit, nil)
	p, s := given(t, l, 1, "one")
	next := after(l, p, s)
	l.Close()
	l = packetLayer(t, AttachInherit, "127.0.0.1:0", next)
	if err := l.Apply(Routing{Native: 1, Backends: backends(p.addr)}); err == nil || !strings.Contains(err.Error(), "has a socket of TCP there") {
		t.Error(err)
	}
}

// TestUDPDirectSwap replaces software under callers that wait for each answer before
// they ask again: every datagram is answered, and most by the software itself.
func TestUDPDirectSwap(t *testing.T) {
	needInherit(t)
	l := packetLayer(t, AttachInherit, "127.0.0.1:0", nil)
	p, _ := givenPackets(t, l, 1, "v1")
	p.ask("serve")
	apply(t, l, Routing{Native: 1, Backends: backends(p.addr)})
	load := newPacketLoad(t, p.addr, 20)
	for v := bundle.Version(1); v <= 4; v++ {
		load.await(400)
		if n, err := l.Drain(t.Context()); n != 0 || err != nil {
			t.Fatal(n, err)
		}
		p.ask("rest")
		p.kill()
		l.Ended()
		eventually(t, "callers are held", func() bool { return l.Stats().Held > 0 })
		p, _ = givenPackets(t, l, 1, fmt.Sprint("v", v+1))
		p.ask("serve")
		apply(t, l, Routing{Native: 1, Backends: backends(p.addr)})
	}
	load.await(400)
	load.end()
	by := load.by()
	if len(by) != 5 || load.direct.Load() == 0 || load.relayed.Load() == 0 {
		t.Errorf("answers by %v; %d direct, %d relayed", by, load.direct.Load(), load.relayed.Load())
	}
	t.Logf("answers by %v; %d direct, %d relayed", by, load.direct.Load(), load.relayed.Load())
}

// packetLoad are callers of UDP that call all the time. They send nothing twice.
type packetLoad struct {
	t               *testing.T
	wg              sync.WaitGroup
	over            atomic.Bool
	direct, relayed atomic.Int64

	mu    sync.Mutex
	names map[string]int // mu
}

func newPacketLoad(t *testing.T, addr string, callers int) *packetLoad {
	l := &packetLoad{t: t, names: map[string]int{}}
	for i := range callers {
		c := packetstest.Dial(t, addr)
		l.wg.Go(func() {
			for n := 0; !l.over.Load(); n++ {
				if err := l.call(c, fmt.Sprint(i, " ", n)); err != nil {
					l.over.Store(true)
					t.Error(err)
				}
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

func (l *packetLoad) call(c *net.UDPConn, said string) error {
	if _, err := c.Write([]byte(said)); err != nil {
		return err
	}
	got, err := packetstest.Hear(c)
	words := strings.SplitN(got, " ", 3)
	if err != nil || len(words) != 3 || words[2] != said {
		return fmt.Errorf("said %q, heard %q: %w", said, got, errors.Join(err, errors.New("no answer to it")))
	}
	if words[1] == c.LocalAddr().String() {
		l.direct.Add(1)
	} else {
		l.relayed.Add(1)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names[words[0]]++
	return nil
}

// await waits for n more calls.
func (l *packetLoad) await(n int64) {
	l.t.Helper()
	total := func() int64 { return l.direct.Load() + l.relayed.Load() }
	to := total() + n
	eventually(l.t, "calls to go on", func() bool { return total() >= to || l.over.Load() })
}

func (l *packetLoad) end() {
	l.over.Store(true)
	l.wg.Wait()
}

func (l *packetLoad) by() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.names
}

// besidePackets starts software that opens its socket beside the layer's by itself, and
// holds that, as Binder has it do.
func besidePackets(t testing.TB, l *Layer, v bundle.Version, name string) (*program, Socket) {
	t.Helper()
	sockets, err := l.Sockets(v)
	if err != nil || len(sockets) != 1 || sockets[0].Node != nil {
		t.Fatalf("%v, %v; want one to hold", sockets, err)
	}
	defer sockets[0].Close()
	p := startPlay(t, playsPackets(name, "shared "+sockets[0].Addr), sockets[0].Hold)
	p.ask("serve")
	return p, sockets[0]
}

// found is a routing to software that was told to listen elsewhere.
func found(t testing.TB, l *Layer, v bundle.Version, private string) Routing {
	t.Helper()
	return Routing{Native: v, Backends: l.Found(v, backends(private))}
}

// TestUDPBeside leads callers to a socket that software opens by itself, and away from
// it, over an upgrade, and when it closes it.
func TestUDPBeside(t *testing.T) {
	eachFamily(t, func(t *testing.T, public string) {
		l := packetLayer(t, AttachSteer, public, nil)
		private, stop := packetstest.Node(t, "private ", public) // where the software is not
		apply(t, l, Routing{Native: 1, Down: true})
		early := packetstest.Dial(t, l.versioned(1))
		packetstest.Send(t, early, "early")
		eventually(t, "the caller is held", func() bool { return l.Stats().Held == 1 })
		health, err := l.Aside("api", 1, private)
		if err != nil {
			t.Fatal(err)
		}
		c := packetstest.Dial(t, health)
		packetstest.Send(t, c, "hi")
		packetstest.Want(t, c, "private hi") // nobody knows better yet
		stop()
		packetstest.Send(t, c, "waits")
		one, _ := besidePackets(t, l, 1, "one")
		if name, direct := packetAnswer(t, c, "waits"); name != "one" || direct {
			t.Errorf("who asked early: %s, directly %v", name, direct)
		}
		wantPackets(t, health, "one", false)
		apply(t, l, found(t, l, 1, private))
		if name, direct := packetAnswer(t, early, "early"); name != "one" || direct {
			t.Errorf("held: %s, directly %v", name, direct)
		}
		wantPackets(t, l.versioned(1), "one", true)
		wantPackets(t, l.Addresses()["api"].Public, "one", false)
		if why := l.Fallen("api"); why != "" {
			t.Error(why)
		}

		if _, err := l.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		packetstest.Send(t, early, "held")
		eventually(t, "the caller is held again", func() bool { return l.Stats().Held == 1 })
		wantPackets(t, health, "one", false)
		one.kill()
		l.Ended()
		two, _ := besidePackets(t, l, 2, "two")
		r := found(t, l, 2, private)
		r.Objects = InProcess(map[bundle.Version]so.Object{1: so.Compatible()})
		apply(t, l, r)
		if name, direct := packetAnswer(t, early, "held"); name != "two" || direct {
			t.Errorf("held: %s, directly %v", name, direct)
		}
		wantPackets(t, l.versioned(2), "two", true)
		wantPackets(t, l.versioned(1), "two", false)

		// It closes its socket: what comes is the layer's, and does not go in a circle.
		two.ask("close")
		before := udpCalls(l, 2)
		packetstest.Send(t, packetstest.Dial(t, l.versioned(2)), "lost")
		eventually(t, "the layer has it", func() bool { return udpCalls(l, 2).Calls == before.Calls+1 })
		l.Ended()
		r.Down = true
		apply(t, l, r)
		packetstest.Send(t, early, "waits")
		eventually(t, "the caller is held once more", func() bool { return l.Stats().Held == 1 })
		again, _ := besidePackets(t, l, 2, "again")
		r.Down = false
		apply(t, l, r)
		if name, direct := packetAnswer(t, early, "waits"); name != "again" || direct {
			t.Errorf("held: %s, directly %v", name, direct)
		}
		wantPackets(t, again.addr, "again", true)
	})
}

// TestUDPBesideCircle has no software where a routing says that it is: nothing comes
// back for ever.
func TestUDPBesideCircle(t *testing.T) {
	l := packetLayer(t, AttachSteer, "127.0.0.1:0", nil)
	apply(t, l, Routing{Native: 1, Down: true})
	at := Routing{Native: 1, Backends: backends(l.versioned(1))}
	apply(t, l, at)
	packetstest.Send(t, packetstest.Dial(t, l.Addresses()["api"].Public), "hi")
	packetstest.Send(t, packetstest.Dial(t, l.versioned(1)), "hi")
	eventually(t, "both count", func() bool { return udpCalls(l, 1).Calls >= 2 })
	// Behind them in the queue, so that what came back is seen.
	health, err := l.Aside("api", 1, l.versioned(1))
	if err != nil {
		t.Fatal(err)
	}
	packetstest.Send(t, packetstest.Dial(t, health), "hi")
	for i := range int64(10) {
		packetstest.Send(t, packetstest.Dial(t, l.versioned(1)), "hi")
		eventually(t, "it counts", func() bool { return udpCalls(l, 1).Calls >= 3+i })
	}
	if n := udpCalls(l, 1).Calls; n != 12 {
		t.Errorf("%d calls were counted of 12", n)
	}
}

// TestUDPBesideWithoutLayer ends the layer while the software runs, admitted or not,
// and holding the layer's socket or not.
func TestUDPBesideWithoutLayer(t *testing.T) {
	needInherit(t)
	for _, c := range []struct{ admitted, holds bool }{{true, true}, {false, true}, {true, false}} {
		l := packetLayer(t, AttachSteer, "127.0.0.1:0", nil)
		sockets, err := l.Sockets(1)
		if err != nil {
			t.Fatal(err)
		}
		s := sockets[0]
		files := []*os.File{s.Hold}
		if !c.holds {
			files = nil
		}
		p := startPlay(t, playsPackets("one", "shared "+s.Addr), files...)
		s.Close()
		p.ask("serve")
		r := found(t, l, 1, "127.0.0.1:1")
		r.Down = !c.admitted
		apply(t, l, r)
		next := after(l, p, s)
		l.Close()
		caller := packetstest.Dial(t, p.addr)
		packetstest.Send(t, caller, "hi")
		if c.admitted {
			wantPackets(t, p.addr, "one", true)
		}
		l = packetLayer(t, AttachSteer, "127.0.0.1:0", next)
		if c.admitted {
			wantPackets(t, p.addr, "one", true) // before it knows anything
		} else {
			eventually(t, "the caller is held", func() bool { return l.Stats().Held == 1 })
		}
		apply(t, l, Routing{Native: 1, Down: true})
		late := packetstest.Dial(t, p.addr)
		packetstest.Send(t, late, "late")
		eventually(t, "a caller is held", func() bool { return l.Stats().Held >= 1 })
		r = found(t, l, 1, "127.0.0.1:1")
		if !c.holds { // then it is as if inherited
			r = Routing{Native: 1, Backends: backends(p.addr)}
		}
		apply(t, l, r)
		if name, direct := packetAnswer(t, caller, "hi"); name != "one" || direct != c.admitted {
			t.Errorf("%+v: %s, directly %v", c, name, direct)
		}
		if name, direct := packetAnswer(t, late, "late"); name != "one" || direct {
			t.Errorf("%+v: %s, directly %v", c, name, direct)
		}
		wantPackets(t, p.addr, "one", true)
		if why := l.Fallen("api"); why != "" {
			t.Error(why)
		}
		l.Close()
		p.kill()
	}
}

// TestUDPBesideFalls relays to software that is where it was told to be, and says why.
func TestUDPBesideFalls(t *testing.T) {
	l := packetLayer(t, AttachSteer, "127.0.0.1:0", nil)
	sockets, err := l.Sockets(1)
	if err != nil {
		t.Fatal(err)
	}
	sockets[0].Close()
	node, _ := packetstest.Node(t, "", "127.0.0.1:0")
	for _, why := range []error{nil, errors.New("the moon is full")} {
		l.Unbound(why)
		r := found(t, l, 1, node)
		r.Watched = map[bundle.Version]bool{9: why != nil} // so that it is another
		apply(t, l, r)
		for _, at := range []string{l.Addresses()["api"].Public, l.versioned(1)} {
			c := packetstest.Dial(t, at)
			packetstest.Send(t, c, "hi")
			packetstest.Want(t, c, "hi")
		}
		if why == nil {
			why = errNotBound
		}
		if got := l.Fallen("api"); got != why.Error() {
			t.Errorf("fallen: %q, want %q", got, why)
		}
	}
}

// A drain gives software the time for answers to what came past the layer: nobody
// here knows whether there is any.
func TestUDPDirectDrain(t *testing.T) {
	needInherit(t)
	l := packetLayer(t, AttachInherit, "127.0.0.1:0", nil)
	p, _ := givenPackets(t, l, 1, "one")
	p.ask("serve")
	apply(t, l, Routing{Native: 1, Backends: backends(p.addr)})
	wantPackets(t, p.addr, "one", true)
	began := time.Now()
	if _, err := l.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < answerTime {
		t.Errorf("it took %v, and answers have %v", took, answerTime)
	}
}
