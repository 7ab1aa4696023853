package connect

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childTimeout bounds what a child waits for.
const childTimeout = 10 * time.Second

// child is a process of a test: it carries out the lines of its input, and prints
// a line for each.
func child(kind string) error {
	switch kind {
	case "agent":
		return agentChild()
	case "nobody":
		return nobodyChild()
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		said, err := command(words[0], words[1:])
		if err != nil {
			said = "error: " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Println(said)
	}
	return in.Err()
}

func command(what string, args []string) (string, error) {
	switch what {
	case "tcp", "mptcp":
		return callTCP(args[0], what == "mptcp")
	case "mapped":
		return callMapped(args[0])
	case "udp":
		return callUDP(args[0])
	case "udpConnected":
		return callUDPConnected(args[0])
	case "bind":
		return bind(args[0], args[1:])
	case "bindMapped":
		return bindMapped(args[0])
	case "load":
		return load(args)
	case "bench":
		return bench(args[0], args[1])
	}
	return "", fmt.Errorf("no such command: %s", what)
}

// callTCP returns who answers, and the peer that the system shows.
func callTCP(addr string, multipath bool) (string, error) {
	d := net.Dialer{Timeout: childTimeout}
	d.SetMultipathTCP(multipath)
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	name, err := io.ReadAll(c)
	return fmt.Sprintf("%s as %s", name, c.RemoteAddr()), err
}

// callMapped calls an IPv4 address from an IPv6 socket.
func callMapped(text string) (string, error) {
	addr := netip.MustParseAddrPort(text)
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), "mapped")
	defer f.Close()
	if err := unix.Connect(fd, &unix.SockaddrInet6{Addr: addr.Addr().As16(), Port: int(addr.Port())}); err != nil {
		return "", err
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return "", err
	}
	six := peer.(*unix.SockaddrInet6)
	name, err := io.ReadAll(f)
	return fmt.Sprintf("%s as %s", name, netip.AddrPortFrom(netip.AddrFrom16(six.Addr), uint16(six.Port))), err
}

// callUDP sends from a socket that is not connected.
func callUDP(addr string) (string, error) {
	c, err := net.ListenUDP("udp", nil)
	if err != nil {
		return "", err
	}
	defer c.Close()
	to := netip.MustParseAddrPort(addr)
	if _, err := c.WriteToUDPAddrPort([]byte("?"), to); err != nil {
		return "", err
	}
	_ = c.SetReadDeadline(time.Now().Add(childTimeout))
	buf := make([]byte, 100)
	n, from, err := c.ReadFromUDPAddrPort(buf)
	return fmt.Sprintf("%s as %s", buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())), err
}

func callUDPConnected(addr string) (string, error) {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	_ = c.SetReadDeadline(time.Now().Add(childTimeout))
	buf := make([]byte, 100)
	n, from, err := c.(*net.UDPConn).ReadFromUDPAddrPort(buf)
	return fmt.Sprintf("%s as %s from %s", buf[:n], c.RemoteAddr(), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())), err
}

// bind opens a socket of UDP with these options, or of TCP, which stays open, and
// returns where it is.
func bind(addr string, options []string) (string, error) {
	set := func(option int) func(string, string, syscall.RawConn) error {
		return func(_, _ string, rc syscall.RawConn) (failed error) {
			err := rc.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, 1) })
			return errors.Join(err, failed)
		}
	}
	var lc net.ListenConfig
	for _, o := range options {
		switch o {
		case "shared":
			lc.Control = set(unix.SO_REUSEPORT)
		case "again":
			lc.Control = set(unix.SO_REUSEADDR)
		case "nobody":
			if err := syscall.Setuid(65534); err != nil {
				return "", err
			}
		case "tcp":
			ln, err := net.Listen("tcp", addr)
			if err != nil {
				return "", err
			}
			return ln.Addr().String(), nil
		}
	}
	pc, err := lc.ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		return "", err
	}
	go func() {
		buf := make([]byte, 10)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo([]byte("node"), from)
		}
	}()
	return pc.LocalAddr().String(), nil
}

// bindMapped binds an IPv4 address by an IPv6 socket of UDP.
func bindMapped(text string) (string, error) {
	addr := netip.MustParseAddrPort(text)
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: addr.Addr().As16(), Port: int(addr.Port())}); err != nil {
		return "", err
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		return "", err
	}
	six := at.(*unix.SockaddrInet6)
	return netip.AddrPortFrom(netip.AddrFrom16(six.Addr), uint16(six.Port)).String(), nil
}

// load calls the addresses in turn until the file that the first argument names is
// there, and tells how many calls there were and how many failed.
func load(args []string) (string, error) {
	var calls, failed int
	var first error
	for {
		if _, err := os.Stat(args[0]); err == nil {
			return fmt.Sprintf("%d calls, %d failed, %v", calls, failed, first), nil
		}
		for _, pair := range args[1:] {
			addr, names, _ := strings.Cut(pair, "=")
			said, err := callTCP(addr, false)
			name, _, _ := strings.Cut(said, " ")
			if err == nil && !strings.Contains(names, name) {
				err = fmt.Errorf("%s answered at %s, want one of %s", name, addr, names)
			}
			calls++
			if err != nil {
				failed++
				first = errors.Join(first, err)
			}
			if failed > 3 {
				return fmt.Sprintf("%d calls, %d failed, %v", calls, failed, strings.ReplaceAll(first.Error(), "\n", "; ")), nil
			}
		}
	}
}

// bench connects a datagram socket n times, which sends nothing: what it takes is
// the system call, with the program if there is one.
func bench(count, text string) (string, error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return "", err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	addr := netip.MustParseAddrPort(text)
	to := &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}
	began := time.Now()
	for range n {
		if err := unix.Connect(fd, to); err != nil {
			return "", err
		}
	}
	return strconv.FormatInt(time.Since(began).Nanoseconds(), 10), nil
}

// agentOptions are what an agent child opens and sets.
type agentOptions struct {
	Options
	TCP map[netip.AddrPort]netip.AddrPort
}

// agentChild opens a Connect, sets a table, and lives until it is killed.
func agentChild() error {
	var o agentOptions
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return err
	}
	c, err := Open(o.Options)
	if err != nil {
		return err
	}
	if _, err := c.Set(Table{TCP: o.TCP}); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// nobodyChild tells why a user without rights cannot do any of it.
func nobodyChild() error {
	const nobody = 65534
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
		return err
	}
	err := Probe(Options{Name: "test"})
	fmt.Printf("%t %s\n", errors.Is(err, ErrNotSupported), strings.ReplaceAll(fmt.Sprint(err), "\n", " "))
	return nil
}

// proc is a child that runs.
type proc struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start starts a child, in a cgroup if there is one. It ends with the test.
func start(t testing.TB, kind string, cgroup *os.File) *proc {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+kind)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if cgroup != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(cgroup.Fd())
	}
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
	p := &proc{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		p.kill()
		cancel()
	})
	return p
}

// kill ends the child as kill -9 does, and waits for its end.
func (p *proc) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	_ = p.cmd.Wait()         // the same
}

func (p *proc) say(format string, args ...any) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		p.t.Fatal(err)
	}
}

func (p *proc) hear() string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("the child said %q, then %v", line, err)
	}
	return strings.TrimSpace(line)
}

// ask has the child carry out a command.
func (p *proc) ask(format string, args ...any) string {
	p.t.Helper()
	p.say(format, args...)
	return p.hear()
}
