//go:build linux

package simlayer

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"moult/simlayer/attach"
	"moult/simlayer/calls"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// directLayer starts a layer with one raw service, attached as given.
func directLayer(t testing.TB, way Attach, change func(*Config)) *Layer {
	return startLayer(t, bundle.ProtocolTCP, func(c *Config) {
		c.Services["api"] = Service{Public: "127.0.0.1:0", Protocol: bundle.ProtocolTCP, Attach: way}
		if change != nil {
			change(c)
		}
	})
}

func needInherit(t testing.TB) {
	t.Helper()
	for _, kind := range []attach.Kind{attach.KindInherit, attach.KindTake} {
		if err := attach.Probe(kind); err != nil {
			t.Skip("sockets cannot be inherited here: ", err)
		}
	}
}

func (l *Layer) versioned(v bundle.Version) string { return l.Addresses()["api"].Versions[v] }

// after returns what a layer that comes after this one is told.
func after(l *Layer, p *program, sockets ...Socket) func(*Config) {
	public := l.Addresses()["api"].Public
	return func(c *Config) {
		s := c.Services["api"]
		s.Public = public
		c.Services["api"] = s
		c.Processes = []int{p.pid()}
		for _, one := range sockets {
			c.Inherited = append(c.Inherited, one.Inherited)
		}
	}
}

// TestInherit leads callers to software and away from it, from its start over an
// upgrade to the next version.
func TestInherit(t *testing.T) {
	needInherit(t)
	l := directLayer(t, AttachInherit, nil)
	one, _ := given(t, l, 1, "one")
	one.ask("serve")
	apply(t, l, Routing{Native: 1, Down: true})
	early := callAt(t, one.addr, net.Dialer{})
	public := callAt(t, l.Addresses()["api"].Public, net.Dialer{})
	eventually(t, "callers are held", func() bool { return l.Stats().Held == 2 })
	if name, direct := callAt(t, one.addr, own).answered(t); name != "one" || !direct {
		t.Errorf("the layer's own connection: %s, directly %v", name, direct)
	}
	up := Routing{Native: 1, Backends: backends(one.addr)}
	apply(t, l, up)
	for _, c := range []*caller{early, public} {
		if name, direct := c.answered(t); name != "one" || direct {
			t.Errorf("held: %s, directly %v", name, direct)
		}
	}
	early.Close()
	public.Close()
	wantAt(t, one.addr, "one", true)
	wantAt(t, l.Addresses()["api"].Public, "one", false)
	if why := l.Fallen("api"); why != "" {
		t.Error(why)
	}

	eventually(t, "the layer's connections end", func() bool { return l.Stats().InFlight == 0 })
	finishDirect(t, l)
	wantAt(t, one.addr, "one", false)
	if _, err := l.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	held := callAt(t, one.addr, net.Dialer{})
	eventually(t, "the caller is held", func() bool { return l.Stats().Held == 1 })
	one.kill()
	l.Ended()
	// Where it was may still be named while it is down, before and while there is
	// other software.
	down := Routing{Native: 1, Backends: backends(one.addr), Down: true}
	apply(t, l, down)
	two, _ := given(t, l, 2, "two")
	apply(t, l, down)
	two.ask("serve")
	apply(t, l, Routing{Native: 2, Backends: backends(two.addr), Objects: InProcess(map[bundle.Version]so.Object{1: so.Compatible()})})
	if name, direct := held.answered(t); name != "two" || direct {
		t.Errorf("held: %s, directly %v", name, direct)
	}
	wantAt(t, two.addr, "two", true)
	wantAt(t, one.addr, "two", false) // its software has no socket of this address
}

// finishDirect waits for calls to end. Those past the layer have their time, since
// nobody sees them end; once no more of them come there is nothing to wait for.
func finishDirect(t *testing.T, l *Layer) {
	t.Helper()
	began := time.Now()
	if _, err := l.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < calls.RawGrace {
		t.Errorf("calls past the layer had %v to end, want %v", took, calls.RawGrace)
	}
	if len(l.leadAll()) > 0 {
		t.Error("callers still go past the layer")
	}
}

// A wait for calls that is cancelled, before or while those past the layer have their
// time, leaves callers where they are, since the software runs on; one whose time is over
// does not.
func TestFinishCancelled(t *testing.T) {
	needInherit(t)
	l := directLayer(t, AttachInherit, nil)
	one, _ := given(t, l, 1, "one")
	one.ask("serve")
	apply(t, l, Routing{Native: 1, Backends: backends(one.addr)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	wantAt(t, one.addr, "one", true)

	past := func() bool {
		return slices.ContainsFunc(l.listeners(), func(f *listener) bool { return f.packets == nil && f.Direct() })
	}
	// It is cancelled within the second that calls past the layer have. A busy machine may
	// miss that second, so it may take more than one try.
	for try := 0; try == 0 || try < 5 && !past(); try++ {
		apply(t, l, Routing{Native: 1, Backends: backends(one.addr)})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := l.Finish(ctx)
			ended <- err
		}()
		eventually(t, "callers are led to the layer", func() bool { return !past() })
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	wantAt(t, one.addr, "one", true)

	ctx, cancel = context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	began := time.Now()
	if _, err := l.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < calls.RawGrace {
		t.Errorf("calls past the layer had %v to end, want %v", took, calls.RawGrace)
	}
	wantAt(t, one.addr, "one", false)
}

// A call past the layer that has no answer yet is waited for beyond the second, but not
// for ever.
func TestFinishUnanswered(t *testing.T) {
	needInherit(t)
	for _, c := range []struct {
		hold   time.Duration
		served bool
	}{{MaxHoldTimeout, true}, {time.Second, false}} {
		l := directLayer(t, AttachInherit, nil)
		one, _ := given(t, l, 1, "one") // takes no call yet
		apply(t, l, Routing{Native: 1, Backends: backends(one.addr), HoldTimeout: c.hold})
		callElsewhere(t, one.addr)
		ended := make(chan error, 1)
		go func() {
			_, err := l.Finish(t.Context())
			ended <- err
		}()
		if c.served {
			select {
			case <-ended:
				t.Fatal("a call without an answer is not waited for")
			case <-time.After(calls.RawGrace + calls.RawGrace/2):
			}
			one.ask("serve")
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// callElsewhere makes a call of another process: those of its own a layer sees.
func callElsewhere(t *testing.T, addr string) {
	t.Helper()
	call := callAt(t, addr, net.Dialer{})
	defer call.Close()
	file, err := call.Conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cat := exec.Command("cat")
	cat.ExtraFiles = []*os.File{file}
	in, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Skipf("no cat to hold a socket: %v", err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cat.Wait() // it only held a socket
	})
}

// TestInheritCrash kills software with callers in its queue, and starts it again.
func TestInheritCrash(t *testing.T) {
	needInherit(t)
	l := directLayer(t, AttachInherit, nil)
	one, _ := given(t, l, 1, "one")
	apply(t, l, Routing{Native: 1, Backends: backends(one.addr)})
	var queued []*caller
	for range 4 {
		queued = append(queued, callAt(t, one.addr, net.Dialer{}))
	}
	one.kill()
	l.Ended()
	apply(t, l, Routing{Native: 1, Down: true})
	eventually(t, "those in the queue are held", func() bool { return l.Stats().Held == len(queued) })
	again, _ := given(t, l, 1, "again")
	again.ask("serve")
	apply(t, l, Routing{Native: 1, Backends: backends(again.addr)})
	for _, c := range queued {
		if name, direct := c.answered(t); name != "again" || direct {
			t.Errorf("%s, directly %v", name, direct)
		}
	}
	wantAt(t, one.addr, "again", true)
}

// TestInheritWithoutLayer ends the layer while the software runs: admitted, it
// serves on; not yet admitted, its callers wait for the next layer. The planted bug
// is software that does not hold the layer's socket.
func TestInheritWithoutLayer(t *testing.T) {
	needInherit(t)
	for name, c := range map[string]struct{ admitted, planted bool }{
		"admitted": {admitted: true}, "not admitted": {}, "planted": {planted: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := directLayer(t, AttachInherit, nil)
			sockets, err := l.Sockets(1)
			if err != nil {
				t.Fatal(err)
			}
			s := sockets[0]
			files := []*os.File{s.Node, s.Hold}
			if c.planted {
				files = files[:1]
			}
			p := startProgram(t, "one", files...)
			s.Close()
			p.ask("serve")
			apply(t, l, Routing{Native: 1, Down: !c.admitted, Backends: backends(p.addr)})
			next := after(l, p, s)
			l.Close()
			first := callAt(t, p.addr, net.Dialer{})
			// It comes behind the first, were that in the same queue.
			if name, _ := callAt(t, p.addr, own).answered(t); name != "one" {
				t.Fatal(name)
			}
			want := map[bool]string{true: "2", false: "1"}[c.admitted || c.planted]
			if n := p.ask("accepted"); n != want {
				t.Fatalf("the software accepted %s connections without a layer, want %s", n, want)
			}
			if c.planted {
				return
			}
			l = directLayer(t, AttachInherit, next)
			apply(t, l, Routing{Native: 1, Down: true})
			if !c.admitted {
				eventually(t, "the caller is held", func() bool { return l.Stats().Held == 1 })
			}
			apply(t, l, Routing{Native: 1, Backends: backends(p.addr)})
			if name, direct := first.answered(t); name != "one" || direct != c.admitted {
				t.Errorf("%s, directly %v", name, direct)
			}
			wantAt(t, p.addr, "one", true)
			first.Close()
			p.kill()
			l.Ended()
			again, _ := given(t, l, 1, "again")
			again.ask("serve")
			apply(t, l, Routing{Native: 1, Backends: backends(again.addr)})
			wantAt(t, p.addr, "again", true)
		})
	}
}

// TestAttachChanged has the operator change the kind of attach while software runs
// that was started for another.
func TestAttachChanged(t *testing.T) {
	needInherit(t)
	t.Run("from inherit", func(t *testing.T) {
		l := directLayer(t, AttachInherit, nil)
		p, s := given(t, l, 1, "one")
		p.ask("serve")
		apply(t, l, Routing{Native: 1, Backends: backends(p.addr)})
		next := after(l, p, s)
		l.Close()
		l = directLayer(t, AttachRelay, next)
		apply(t, l, Routing{Native: 1, Backends: backends(p.addr)})
		wantAt(t, p.addr, "one", true)
		wantAt(t, l.Addresses()["api"].Public, "one", false)
	})
	t.Run("to inherit", func(t *testing.T) {
		p := startProgram(t, "one")
		p.ask("serve")
		l := directLayer(t, AttachInherit, func(c *Config) { c.Processes = []int{p.pid()} })
		apply(t, l, Routing{Native: 1, Backends: backends(p.addr)})
		wantAt(t, l.versioned(1), "one", false)
		if why := l.Fallen("api"); !strings.Contains(why, "started anew") {
			t.Errorf("fallen: %q", why)
		}
	})
}

// TestInheritedBackend takes the software's own address for a backend, and no other
// of the layer's.
func TestInheritedBackend(t *testing.T) {
	needInherit(t)
	l := directLayer(t, AttachInherit, nil)
	p, _ := given(t, l, 1, "one")
	objects := InProcess(map[bundle.Version]so.Object{2: so.Compatible()})
	apply(t, l, Routing{Native: 1, Down: true, Objects: objects})
	for _, addr := range []string{l.Addresses()["api"].Public, l.versioned(2)} {
		if err := l.Apply(Routing{Native: 1, Backends: backends(addr), Objects: objects}); err == nil || !strings.Contains(err.Error(), "own address") {
			t.Errorf("%s: %v", addr, err)
		}
	}
	apply(t, l, Routing{Native: 1, Backends: backends(p.addr), Objects: objects})
	// The software of the next version is ready before its routing is.
	p.kill()
	l.Ended()
	apply(t, l, Routing{Native: 1, Down: true, Objects: objects})
	two, _ := given(t, l, 2, "two")
	two.ask("serve")
	apply(t, l, Routing{Native: 1, Down: true, Backends: backends(two.addr), Objects: objects})
	if err := l.Apply(Routing{Native: 1, Backends: backends(p.addr), Objects: objects}); err == nil {
		t.Error("the address of software that has ended was taken for a backend")
	}
	apply(t, l, Routing{Native: 2, Backends: backends(two.addr)})
	wantAt(t, two.addr, "two", true)
}

// steerLayer starts a layer that steers, with a program that its test has pinned.
func steerLayer(t *testing.T, s *attach.Steer, change func(*Config)) *Layer {
	l := directLayer(t, AttachSteer, change)
	l.SetSteer(s)
	return l
}

func openSteer(t *testing.T, fs string) *attach.Steer {
	t.Helper()
	s, err := attach.OpenSteer(filepath.Join(fs, "moult"), attach.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func pointed(t *testing.T, s *attach.Steer) int {
	t.Helper()
	all, err := s.Pointed()
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestSteered leads callers of both addresses to software that knows of nothing, and
// away from it, over an upgrade, with callers in its queue.
func TestSteered(t *testing.T) { boxed(t, steered) }

func steered(t *testing.T, fs string) {
	s := openSteer(t, fs)
	l := steerLayer(t, s, nil)
	one := startProgram(t, "one")
	one.ask("serve")
	route := func(p *program) Routing {
		return Routing{Native: 1, Backends: backends(p.addr), Processes: []int{p.pid()}}
	}
	apply(t, l, route(one))
	public, versioned := l.Addresses()["api"].Public, l.versioned(1)
	if n := pointed(t, s); n != 2 {
		t.Errorf("%d addresses are steered, want 2", n)
	}
	wantAt(t, public, "one", true)
	wantAt(t, versioned, "one", true)

	finishDirect(t, l)
	wantAt(t, public, "one", false)
	wantAt(t, versioned, "one", false)
	if _, err := l.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := pointed(t, s); n != 0 {
		t.Errorf("%d addresses are steered to a node that goes down", n)
	}
	held := callAt(t, public, net.Dialer{})
	eventually(t, "the caller is held", func() bool { return l.Stats().Held == 1 })
	one.kill()
	l.Ended()
	deaf := startProgram(t, "deaf")
	apply(t, l, route(deaf))
	queued := []*caller{callAt(t, public, net.Dialer{}), callAt(t, versioned, net.Dialer{})}
	deaf.kill()
	l.Ended()
	if n := pointed(t, s); n != 0 {
		t.Errorf("%d addresses are steered to software that has ended", n)
	}
	apply(t, l, Routing{Native: 1, Down: true})
	eventually(t, "those in the queue are held", func() bool { return l.Stats().Held >= len(queued) })
	two := startProgram(t, "two")
	two.ask("serve")
	apply(t, l, route(two))
	for _, c := range queued {
		if name, direct := c.answered(t); name != "two" || direct {
			t.Errorf("%s, directly %v", name, direct)
		}
	}
	// What was held went to deaf, by a connection of the layer's; that ended with it.
	held.Close()
	wantAt(t, public, "two", true)
}

// TestSteeredWithoutLayer ends the layer and starts the next one: callers notice
// nothing.
func TestSteeredWithoutLayer(t *testing.T) { boxed(t, steeredWithoutLayer) }

func steeredWithoutLayer(t *testing.T, fs string) {
	s := openSteer(t, fs)
	l := steerLayer(t, s, nil)
	p := startProgram(t, "one")
	p.ask("serve")
	route := Routing{Native: 1, Backends: backends(p.addr), Processes: []int{p.pid()}}
	apply(t, l, route)
	public := l.Addresses()["api"].Public
	next := after(l, p)
	l.Close()
	wantAt(t, public, "one", true)
	l = steerLayer(t, s, next)
	wantAt(t, public, "one", true) // also before it knows anything
	apply(t, l, Routing{Native: 1, Down: true})
	held := callAt(t, public, net.Dialer{})
	eventually(t, "the caller is held", func() bool { return l.Stats().Held == 1 })
	apply(t, l, route)
	if name, direct := held.answered(t); name != "one" || direct {
		t.Errorf("%s, directly %v", name, direct)
	}
	wantAt(t, public, "one", true)
}

// TestSteerFalls relays where the software's socket cannot be had, says why, and
// steers as soon as it can.
func TestSteerFalls(t *testing.T) { boxed(t, steerFalls) }

func steerFalls(t *testing.T, fs string) {
	s := openSteer(t, fs)
	l := steerLayer(t, s, nil)
	p := startProgram(t, "one")
	p.ask("serve")
	apply(t, l, Routing{Native: 1, Backends: backends(p.addr)})
	wantAt(t, l.Addresses()["api"].Public, "one", false)
	if why := l.Fallen("api"); !strings.Contains(why, "not found") {
		t.Errorf("fallen: %q", why)
	}
	apply(t, l, Routing{Native: 1, Backends: backends(p.addr), Processes: []int{p.pid()}})
	wantAt(t, l.Addresses()["api"].Public, "one", true)
	if why := l.Fallen("api"); why != "" {
		t.Errorf("fallen: %q", why)
	}
}
