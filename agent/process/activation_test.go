//go:build unix

package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"moult/store/bundle"
)

// serveInherited is software that is activated by sockets: it says on each which
// one it is, and in which cgroup it began.
func serveInherited() int {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		fmt.Println("LISTEN_PID is", os.Getenv("LISTEN_PID"), "and I am", os.Getpid())
		return 1
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if err != nil || n != len(names) {
		fmt.Println("LISTEN_FDS", n, err, "LISTEN_FDNAMES", names)
		return 1
	}
	for i, name := range names {
		l, err := net.FileListener(os.NewFile(uintptr(3+i), name))
		if err != nil {
			fmt.Println(err)
			return 1
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%d %s %s\n", i, name, strings.Join(os.Args[1:], ","))
				c.Close()
			}
		}()
	}
	cgroup, _ := os.ReadFile("/proc/self/cgroup")
	fmt.Printf("serving\n%s", cgroup)
	return hang()
}

func TestInheritedSockets(t *testing.T) {
	t.Parallel()
	spec := newSpec(t, "inherit")
	spec.Argv = []string{os.Args[0], "first word", "$HOME"}
	var addrs []string
	for _, name := range []string{"api", "api", "admin"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, l.Addr().String())
		f, err := l.(*net.TCPListener).File()
		l.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		spec.Sockets = append(spec.Sockets, Socket{Name: name, File: f})
	}
	started(t, spec)
	for i, want := range []string{"0 api first word,$HOME", "1 api first word,$HOME", "2 admin first word,$HOME"} {
		c, err := net.Dial("tcp", addrs[i])
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		c.Close()
		if err != nil || strings.TrimSpace(line) != want {
			t.Errorf("socket %d answers %q, %v; want %q", i, line, err, want)
		}
	}
}

func TestSocketsThatCannotBePassed(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for name, sockets := range map[string][]Socket{
		"no file":    {{Name: "api"}},
		"no name":    {{File: r}},
		"colon":      {{Name: "a:b", File: r}},
		"line break": {{Name: "a\nb", File: r}},
		"too many":   make([]Socket, maxSockets+1),
	} {
		if err := pass(&exec.Cmd{}, sockets, nil); err == nil {
			t.Errorf("%s: passed", name)
		}
	}
}

// TestHeld has software keep a file open of which it knows nothing, until it ends:
// behind a socket that it is told of, and by itself.
func TestHeld(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for mode, sockets := range map[string][]Socket{"inherit": {{Name: "api", File: f}}, "http": nil} {
		var pipe [2]int
		if err := unix.Pipe(pipe[:]); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pipe[0])
		if err := unix.SetNonblock(pipe[0], true); err != nil {
			t.Fatal(err)
		}
		unix.CloseOnExec(pipe[0])
		unix.CloseOnExec(pipe[1])
		held := os.NewFile(uintptr(pipe[1]), "held")
		spec := newSpec(t, mode)
		spec.Sockets, spec.Held = sockets, []*os.File{held}
		p := started(t, spec) // the software would not say that it serves, had it been told of another
		held.Close()
		if n, err := unix.Read(pipe[0], make([]byte, 1)); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%s: nobody holds the file: %d, %v", mode, n, err)
		}
		end(t, p)
		if n, err := unix.Read(pipe[0], make([]byte, 1)); n != 0 || err != nil {
			t.Errorf("%s: somebody holds the file of software that has ended: %d, %v", mode, n, err)
		}
	}
}

// TestDialControl checks that the agent's questions are marked as such.
func TestDialControl(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var asked []string
	stop := errors.New("seen")
	for _, health := range []bundle.Health{{HTTP: "/"}, {TCP: true}} {
		spec := Spec{Health: health, HealthAddr: l.Addr().String(), DialControl: func(_ context.Context, network, addr string, _ syscall.RawConn) error {
			asked = append(asked, network+" "+addr)
			return stop
		}}
		if err := newCheck(spec, nil)(t.Context()); !errors.Is(err, stop) {
			t.Errorf("%+v: %v", health, err)
		}
	}
	if want := "tcp4 " + l.Addr().String(); len(asked) != 2 || asked[0] != want || asked[1] != want {
		t.Errorf("asked %q, want %q twice", asked, want)
	}
}
