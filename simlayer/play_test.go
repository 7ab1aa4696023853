//go:build linux

package simlayer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"moult/simlayer/attach"
	"moult/store/bundle"
)

// What the test binary plays in processes that the tests start.
const (
	playVar = "SIMLAYER_PLAYS" // the name of software
	boxVar  = "SIMLAYER_BOX"   // the tests themselves, with a BPF file system
)

// program is software in a process of its own, which answers each line of a raw
// connection with its name, and the address that the connection came from.
type program struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	addr string // where it listens
}

// startProgram starts software that inherits sockets, or else opens one. It accepts
// nobody until it is told to.
func startProgram(t testing.TB, name string, files ...*os.File) *program {
	t.Helper()
	return startPlay(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, playVar+"="+name) }, files...)
}

func startPlay(t testing.TB, change func(*exec.Cmd), files ...*os.File) *program {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestPlay$", "-test.v")
	cmd.Env = append(os.Environ(), "PLAY_SOCKETS="+strconv.Itoa(len(files)), "GODEBUG=multipathtcp=0")
	cmd.ExtraFiles = files
	change(cmd)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(p.kill)
	p.addr = p.answer()
	return p
}

// given starts software on the one socket that the layer has for it.
func given(t testing.TB, l *Layer, v bundle.Version, name string) (*program, Socket) {
	t.Helper()
	sockets, err := l.Sockets(v)
	if err != nil || len(sockets) != 1 {
		t.Fatalf("%d sockets, %v; want 1", len(sockets), err)
	}
	defer sockets[0].Close()
	p := startProgram(t, name, sockets[0].Node, sockets[0].Hold)
	if p.addr != sockets[0].Addr {
		t.Fatalf("the software listens on %s, was given %s", p.addr, sockets[0].Addr)
	}
	return p, sockets[0]
}

func (p *program) pid() int { return p.cmd.Process.Pid }

// ask tells the software to do something, and returns what it says.
func (p *program) ask(what string) string {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.in, what); err != nil {
		p.t.Fatal(err)
	}
	return p.answer()
}

func (p *program) answer() string {
	p.t.Helper()
	for {
		line, err := p.out.ReadString('\n')
		if err != nil {
			p.t.Fatalf("the software says nothing: %v", err)
		}
		if said, ok := strings.CutPrefix(line, "> "); ok { // else it is go test's
			return strings.TrimSpace(said)
		}
	}
}

func (p *program) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// TestPlay is what startProgram runs.
func TestPlay(t *testing.T) {
	name := os.Getenv(playVar)
	if name == "" {
		t.Skip("other tests start it in a process of its own")
	}
	if at := os.Getenv(playPacketsVar); at != "" {
		playPackets(t, name, at)
	}
	ln, err := playListener()
	if err != nil {
		t.Fatal(err)
	}
	var accepted atomic.Int64
	fmt.Println("> " + ln.Addr().String())
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "serve":
			go func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					accepted.Add(1)
					go answerLines(c, name)
				}
			}()
			fmt.Println("> serving")
		case "accepted":
			fmt.Println(">", accepted.Load())
		}
	}
	os.Exit(0) // connections need not end first
}

func playListener() (net.Listener, error) {
	if os.Getenv("PLAY_SOCKETS") == "0" {
		return net.Listen("tcp", "127.0.0.1:0")
	}
	f := os.NewFile(3, "inherited") // what is behind it is held
	defer f.Close()
	return net.FileListener(f)
}

func answerLines(c net.Conn, name string) {
	defer c.Close()
	for r := bufio.NewReader(c); ; {
		if _, err := r.ReadSlice('\n'); err != nil {
			return
		}
		if _, err := fmt.Fprintln(c, name, c.RemoteAddr()); err != nil {
			return
		}
	}
}

// caller is a raw connection to a service.
type caller struct {
	net.Conn
	r *bufio.Reader
}

func callAt(t testing.TB, addr string, d net.Dialer) *caller {
	t.Helper()
	// Not the layer's address: a connection of the layer's to another port may have the same
	// port of its own, and would be taken for this one.
	if at := netip.MustParseAddrPort(addr).Addr(); runtime.GOOS == "linux" && at.Is4() && d.ControlContext == nil {
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}
	}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	// Only so that a failure is no hang.
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "who\n"); err != nil {
		t.Fatal(err)
	}
	return &caller{c, bufio.NewReader(c)}
}

// answered returns who answered, and whether the layer was not between.
func (c *caller) answered(t testing.TB) (name string, direct bool) {
	t.Helper()
	line, err := c.r.ReadString('\n')
	if err != nil {
		t.Fatalf("%s: no answer: %v", c.RemoteAddr(), err)
	}
	name, from, _ := strings.Cut(strings.TrimSpace(line), " ")
	return name, from == c.LocalAddr().String()
}

// wantAt checks who answers new callers of an address, and on which way.
func wantAt(t testing.TB, addr, name string, direct bool) {
	t.Helper()
	for range 5 {
		c := callAt(t, addr, net.Dialer{})
		if got, way := c.answered(t); got != name || way != direct {
			t.Fatalf("%s answers at %s, directly %v; want %s, %v", got, addr, way, name, direct)
		}
		c.Close()
	}
}

// own dials as the layer does.
var own = net.Dialer{ControlContext: attach.DialControl}

// boxed runs a test in a process that has a BPF file system of its own.
func boxed(t *testing.T, test func(t *testing.T, fs string)) {
	const at = "/sys/fs/bpf"
	if os.Getenv(boxVar) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("bpf", at, "bpf", 0, "mode=0700"); err != nil {
			t.Skip("no BPF file system here: ", err)
		}
		test(t, at) // the mount goes with the namespace
		return
	}
	if os.Getuid() != 0 {
		t.Skip("a BPF file system of the test's own needs root")
	}
	if err := errors.Join(attach.Probe(attach.KindSteer), attach.Probe(attach.KindTake)); err != nil {
		t.Skip("steering is not possible here: ", err)
	}
	runtime.LockOSThread() // for Pdeathsig
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), boxVar+"=on")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, unix.EPERM):
		t.Skip("no mount namespace for the test here: ", err)
	case err != nil:
		t.Fatalf("%v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("%s", out)
	}
}
