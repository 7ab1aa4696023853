package observe

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestKernelTable(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 0100007F:8235 01 00000000:00000000 00:00000000 00000000     0        0 11 1 0 20 4 30 10 -1
   1: 0100007F:1F90 0100007F:8236 08 00000000:00000000 00:00000000 00000000     0        0 12 1 0 20 4 30 10 -1
   2: 0100007F:1F90 0100007F:8237 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1
   3: 0200007F:1F90 0100007F:8238 01 00000000:00000000 00:00000000 00000000     0        0 14 1 0 20 4 30 10 -1
   4: 00000000000000000000000001000000:1F91 00000000000000000000000001000000:0001 01 0 00:0 0 0 0 15 1
   5: 0000000000000000FFFF00000100007F:1F90 00000000:0001 03 0 00:0 0 0 0 0 1
   6: 0100007F:8236 0100007F:1F90 01 0 00:0 0 0 0 16 1
`
	for _, c := range []struct {
		at   string
		own  string
		want int
	}{
		{"127.0.0.1:8080", "11", 2}, {"127.0.0.1:8080", "16", 2}, {"127.0.0.1:8080", "", 3}, {"127.0.0.2:8080", "", 1}, {"0.0.0.0:8080", "", 4},
		{"[::1]:8081", "", 1}, {"[::]:8081", "15", 0}, {"127.0.0.1:8081", "", 0},
	} {
		n, err := countOthers(strings.NewReader(table), map[netip.AddrPort]bool{netip.MustParseAddrPort(c.at): true}, map[string]bool{c.own: true})
		if err != nil || n != c.want {
			t.Errorf("%s without %q: %d, %v, want %d", c.at, c.own, n, err, c.want)
		}
	}
	if _, err := countOthers(strings.NewReader("head\n 0: 01:zz 0 01 0 0 0 0 0 9\n"), nil, nil); err == nil {
		t.Error("a table that cannot be read counts nothing")
	}
}

// Connections that this process has accepted are not past it; those of another are,
// until they end.
func TestConnectionsOfOthers(t *testing.T) {
	count := func(ln net.Listener) int {
		t.Helper()
		n, err := ConnectionsOfOthers([]netip.AddrPort{ln.Addr().(*net.TCPAddr).AddrPort()})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	own, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	conn, err := net.Dial("tcp", own.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := own.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if n := count(own); n != 0 {
		t.Errorf("%d connections past the layer, want none", n)
	}
	// Another process has a connection to such an address, both its ends, as a caller
	// and software have that was steered to. That of which one end is here is none.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	file, err := server.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	far, err := client.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	cat := exec.Command("cat")
	cat.ExtraFiles = []*os.File{file, far}
	in, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Skipf("no cat to hold a socket: %v", err)
	}
	file.Close()
	server.Close()
	far.Close()
	if n := count(ln); n != 0 {
		t.Errorf("%d connections of another process, while one end is here", n)
	}
	client.Close()
	if n := count(ln); n != 1 {
		t.Errorf("%d connections of another process, want one", n)
	}
	in.Close()
	if err := cat.Wait(); err != nil {
		t.Error(err)
	}
	if n := count(ln); n != 0 {
		t.Errorf("%d connections after its end", n)
	}
}
