package simlayer

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"moult/store/bundle"
)

// idleRole tells the test binary to be the layer of TestIdleMemory: its value is
// the address of the node.
const idleRole = "MOULT_IDLE_NODE"

// maxIdle is what an idle relayed connection may cost the agent, in bytes.
const maxIdle = 16 << 10

// serveIdle is a layer that says its address, and for each line that it reads how
// much memory it has.
func serveIdle(node string) {
	l, err := Start(Config{Services: map[string]Service{"api": {Public: "127.0.0.1:0", Protocol: os.Getenv("MOULT_IDLE_PROTOCOL")}}})
	if err == nil {
		err = l.Apply(Routing{Native: 1, Backends: backends(node)})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(l.Addresses()["api"].Public)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		runtime.GC()
		runtime.GC() // pools are emptied by the second
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Println(m.HeapInuse + m.StackInuse)
	}
	l.Close()
}

// TestIdleMemory: thousands of connections that were used and are idle cost the agent
// no more than maxIdle each, for either protocol.
func TestIdleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short, which goes with -race: that changes what memory is needed")
	}
	conns := 4_000
	limit := syscall.Rlimit{Cur: 32_768, Max: 32_768}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		conns = min(conns, int(limit.Cur)/2-200)
		t.Logf("with %d connections: no more files can be opened here", conns)
	}
	for _, protocol := range []string{bundle.ProtocolHTTP, bundle.ProtocolTCP} {
		per := idleMemory(t, protocol, conns)
		t.Logf("%s: %d bytes for each of %d idle connections", protocol, per, conns)
		if per > maxIdle {
			t.Errorf("%s: %d bytes for an idle connection, want at most %d", protocol, per, maxIdle)
		}
		if per < 1<<10 {
			t.Errorf("%s: %d bytes for an idle connection: nothing was measured", protocol, per)
		}
	}
}

func idleMemory(t *testing.T, protocol string, conns int) int {
	node := tcpNode(t, func(c net.Conn) {
		one := make([]byte, 256)
		for {
			n, err := c.Read(one)
			if err != nil {
				return
			}
			if strings.HasSuffix(string(one[:n]), "\r\n\r\n") {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
		}
	})
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), idleRole+"="+node.Addr().String(), "MOULT_IDLE_PROTOCOL="+protocol)
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
	defer func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	lines := bufio.NewScanner(out)
	line := func() string {
		if !lines.Scan() {
			t.Fatal("the layer has ended", lines.Err())
		}
		return lines.Text()
	}
	memory := func() int {
		fmt.Fprintln(in)
		n, err := strconv.Atoi(line())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	addr := line()
	before := memory()
	call := []byte(getOf("/"))
	answer := make([]byte, len("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	for range conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(call); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, answer); err != nil {
			t.Fatal(err)
		}
	}
	return (memory() - before) / conns
}
