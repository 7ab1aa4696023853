//go:build linux

package attach

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The test binary plays all parts: with roleVar it is a node, an agent or an
// unprivileged process; with boxVar it is the tests, run as root in a network
// and a mount namespace of their own, so that whatever they attach, pin or leave
// behind by a crash is gone with them.
const (
	roleVar = "MOULT_ATTACH_ROLE"
	boxVar  = "MOULT_ATTACH_BOX"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		os.Exit(play(role))
	}
	if os.Getuid() != 0 || os.Getenv(boxVar) == "off" {
		os.Exit(m.Run())
	}
	if os.Getenv(boxVar) == "" {
		os.Exit(box())
	}
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, "furnish the namespaces:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// box runs the tests in namespaces of their own.
func box() int {
	runtime.LockOSThread() // for Pdeathsig
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), boxVar+"=on")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Start()
	if errors.Is(err, unix.EPERM) {
		fmt.Println("no namespaces for the tests here; those that need them are skipped:", err)
		cmd = exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), boxVar+"=off")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		err = cmd.Start()
	}
	if err == nil {
		err = cmd.Wait()
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// furnish makes the new namespaces usable: loopback up, mounts private.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return err
	}
	return addV6(netip.MustParseAddr(otherV6))
}

// otherV6 is a second IPv6 address of this machine (RFC 3849).
const otherV6 = "2001:db8::1"

// addV6 gives loopback an address, where there is IPv6.
func addV6(ip netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req := struct { // in6_ifreq
		addr   [16]byte
		prefix uint32
		index  int32
	}{ip.As16(), 128, 1}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return fmt.Errorf("add %s to the loopback interface: %w", ip, errno)
	}
	return nil
}

// pinFolder returns a new folder in a BPF file system of the test's own.
func pinFolder(tb testing.TB) string {
	tb.Helper()
	if os.Getenv(boxVar) != "on" {
		tb.Skip("steering is tested as root in namespaces of its own: run as root")
	}
	if err := probeSteer(); err != nil {
		tb.Skip("this kernel does not steer: ", err)
	}
	at := filepath.Join(tb.TempDir(), "bpf")
	if err := MountBPFFS(at); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			tb.Error("unmount: ", err)
		}
	})
	return filepath.Join(at, "moult")
}

// needBox skips where the machine's addresses are not the test's own.
func needBox(tb testing.TB) {
	tb.Helper()
	if os.Getenv(boxVar) != "on" {
		tb.Skip("needs an address of the test's own: run as root")
	}
}

func needV6(tb testing.TB, addr string) {
	tb.Helper()
	if !strings.Contains(addr, "[") {
		return
	}
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		tb.Skip("no IPv6 here: ", err)
	}
	ln.Close()
}

// child is a process that plays a part. It is told what to do in lines, answers
// each with a line, and ends when its input does.
type child struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(t testing.TB, role string, attr *syscall.SysProcAttr, files ...*os.File) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), roleVar+"="+role, "GODEBUG=multipathtcp=0")
	if role == "multipath" {
		cmd.Env = append(os.Environ(), roleVar+"=node", "GODEBUG=multipathtcp=1")
	}
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = files
	cmd.SysProcAttr = attr
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
	c := &child{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(c.kill)
	return c
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// ask sends a line and returns the answer, which must not begin with "error".
func (c *child) ask(line string) string {
	c.t.Helper()
	answer := c.try(line)
	if strings.HasPrefix(answer, "error") {
		c.t.Fatalf("%s: %s", line, answer)
	}
	return answer
}

func (c *child) try(line string) string {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, line); err != nil {
		c.t.Fatalf("%s: %v", line, err)
	}
	answer, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatalf("%s: %v", line, err)
	}
	return strings.TrimSpace(answer)
}

// freeze returns when it runs no more.
func (c *child) freeze() {
	c.t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		c.t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, c.pid(), nil, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
		c.t.Fatal(err)
	}
}

// kill ends it as a crash would.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// play reads commands until its input ends.
func play(role string) int {
	p := part{name: role}
	if role == "inheritor" {
		if _, err := p.do([]string{"inherit"}); err != nil {
			return 1
		}
		_, _ = p.do([]string{"serve"})
		fmt.Println("serving")
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		answer, err := p.do(strings.Fields(in.Text()))
		if err != nil {
			answer = "error " + err.Error()
		}
		fmt.Println(strings.ReplaceAll(answer, "\n", " "))
	}
	return 0
}

// part is what a child process holds.
type part struct {
	name  string
	node  *os.File // descriptor 3
	pair  *Pair
	steer *Steer
	ln    net.Listener
	udp   net.PacketConn
}

func (p *part) do(args []string) (string, error) {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	ctx := context.Background()
	switch arg(0) {
	case "listen": // of its own, at an address
		ln, err := net.Listen("tcp", arg(1))
		if err != nil {
			return "", err
		}
		p.ln = ln
		return ln.Addr().String(), nil
	case "udp": // a socket that answers at an address
		pc, err := listenPacket(arg(1))
		if err != nil {
			return "", err
		}
		p.udp = pc
		go answerPackets(pc, p.name)
		return pc.LocalAddr().String(), nil
	case "inherit": // the socket at descriptor 3
		if p.node == nil {
			p.node = os.NewFile(3, "inherited")
		}
		ln, err := net.FileListener(p.node)
		if err != nil {
			return "", err
		}
		p.node.Close()
		p.ln = ln
		return ln.Addr().String(), nil
	case "serve":
		go serve(p.ln, p.name)
		return "serving", nil
	case "close":
		return "closed", p.ln.Close()
	case "pair":
		pair, err := ListenPair(ctx, "tcp", arg(1))
		if err != nil {
			return "", err
		}
		p.pair = pair
		go serve(pair.Agent(), p.name)
		return pair.Addr().String(), nil
	case "point":
		return "pointed", p.pair.Point(arg(1) == "node")
	case "child": // a node that inherits, shares this process's input, and serves
		return p.child()
	case "opensteer":
		s, err := OpenSteer(arg(1), Options{})
		if err != nil {
			return "", err
		}
		p.steer = s
		return fmt.Sprint("adopted ", s.Adopted()), nil
	case "steer": // network, address, process: takes the socket at a fourth
		pid, err := strconv.Atoi(arg(3))
		if err != nil {
			return "", err
		}
		sock, err := Take([]int{pid}, arg(1), netip.MustParseAddrPort(arg(4)))
		if err != nil {
			return "", err
		}
		defer sock.Close()
		return "pointed", p.steer.Point(arg(1), netip.MustParseAddrPort(arg(2)), sock)
	case "probe":
		return "works", Probe(Kind(arg(1)))
	}
	return "", fmt.Errorf("unknown command %q", args)
}

// child starts a node in its own session, as the agent does.
func (p *part) child() (string, error) {
	f, err := p.pair.Node()
	if err != nil {
		return "", err
	}
	defer f.Close()
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), roleVar+"=inheritor")
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, out, err := os.Pipe()
	if err != nil {
		return "", err
	}
	// It ends with the test, not with this process.
	cmd.Stdin = os.NewFile(4, "life")
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		return "", err
	}
	out.Close()
	if _, err := bufio.NewReader(in).ReadString('\n'); err != nil {
		return "", err
	}
	return strconv.Itoa(cmd.Process.Pid), nil
}

// serve answers each line that a connection sends with a name, until its end.
func serve(ln net.Listener, name string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go answer(c, name)
	}
}

func answer(c net.Conn, name string) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		if _, err := r.ReadSlice('\n'); err != nil {
			return
		}
		if _, err := io.WriteString(c, name+"\n"); err != nil {
			return
		}
	}
}

// listenPacket binds a socket that shares its address (SO_REUSEADDR).
func listenPacket(addr string) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var failed error
		err := rc.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		})
		return errors.Join(err, failed)
	}}
	return lc.ListenPacket(context.Background(), "udp", addr)
}

func answerPackets(pc net.PacketConn, name string) {
	var b [512]byte
	for {
		_, from, err := pc.ReadFrom(b[:])
		if err != nil {
			return
		}
		if _, err := pc.WriteTo([]byte(name), from); err != nil {
			return
		}
	}
}

// who dials an address and returns the name of the one who answers.
func who(addr string) (string, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return askConn(c)
}

func askConn(c net.Conn) (string, error) {
	// Only so that a failure is no hang.
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, "who\n"); err != nil {
		return "", err
	}
	name, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(name), err
}

// wantWho dials several times: spreading by hash would show.
func wantWho(t testing.TB, addr, want string) {
	t.Helper()
	for range 12 {
		got, err := who(addr)
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("%s answers at %s, want %s", got, addr, want)
		}
	}
}
