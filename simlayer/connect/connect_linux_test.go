package connect

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// newOptions returns options whose pins and cgroup end with the test. It skips
// the test where the system does not do.
func newOptions(t testing.TB) Options {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Skipf("this test needs root, to mount a BPF file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	o := Options{Dir: dir, Name: fmt.Sprintf("test_%d_%d", os.Getpid(), time.Now().UnixNano())}
	if err := Probe(o); errors.Is(err, ErrNotSupported) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	return o
}

func mustOpen(t testing.TB, o Options) *Connect {
	t.Helper()
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// open opens a Connect that is removed after the processes of the test.
func open(t testing.TB) *Connect {
	t.Helper()
	c := mustOpen(t, newOptions(t))
	t.Cleanup(func() { remove(t, c) })
	return c
}

func remove(t testing.TB, c *Connect) {
	t.Helper()
	if err := c.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Cgroup().Name()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the cgroup is still there: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(c.dir), "connect_*")); err != nil || len(left) != 0 {
		t.Errorf("pins are left: %v, %v", left, err)
	}
}

func set(t testing.TB, c *Connect, table Table) {
	t.Helper()
	if left, err := c.Set(table); err != nil || len(left) > 0 {
		t.Fatal(err, left)
	}
}

type addrs = map[netip.AddrPort]netip.AddrPort

// greeter tells its name to all who connect.
func greeter(t testing.TB, name, addr string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("cannot listen: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, name)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// echo tells its name to all who send a datagram.
func echo(t testing.TB, name, addr string) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Skipf("cannot listen: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 10)
		for {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(name), from)
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Public addresses, at which nobody listens.
var (
	public4 = netip.MustParseAddrPort("127.77.0.1:7000")
	other4  = netip.MustParseAddrPort("127.77.0.2:7000")
	public6 = netip.MustParseAddrPort("[::1]:17000")
)

func want(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

func TestTCP(t *testing.T) {
	c := open(t)
	four, six := greeter(t, "four", "127.0.0.1:0"), greeter(t, "six", "[::1]:0")
	set(t, c, Table{TCP: addrs{public4: four, public6: six}})
	node := start(t, "node", c.Cgroup())
	want(t, "IPv4", node.ask("tcp %s", public4), "four as "+public4.String())
	want(t, "IPv6", node.ask("tcp %s", public6), "six as "+public6.String())
	want(t, "IPv4 from an IPv6 socket", node.ask("mapped %s", public4), "four as [::ffff:127.77.0.1]:7000")
	want(t, "not in the table", node.ask("tcp %s", four), "four as "+four.String())
	want(t, "not in the table, from an IPv6 socket", node.ask("mapped %s", four), "four as "+netip.AddrPortFrom(netip.AddrFrom16(four.Addr().As16()), four.Port()).String())
	for _, addr := range []netip.AddrPort{other4, netip.AddrPortFrom(public4.Addr(), 7001)} {
		if said := node.ask("tcp %s", addr); !strings.Contains(said, "connection refused") {
			t.Errorf("an address beside that of a peer: %s", said)
		}
	}
	// Those outside the cgroup are not concerned.
	if said := start(t, "node", nil).ask("tcp %s", public4); !strings.Contains(said, "connection refused") {
		t.Errorf("outside: %s", said)
	}
	set(t, c, Table{TCP: addrs{public6: six}})
	if said := node.ask("tcp %s", public4); !strings.Contains(said, "connection refused") {
		t.Errorf("taken out of the table: %s", said)
	}
	set(t, c, Table{})
	if said := node.ask("tcp %s", public6); !strings.Contains(said, "connection refused") {
		t.Errorf("an empty table: %s", said)
	}
}

func TestMultipathTCP(t *testing.T) {
	c := open(t)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		t.Skipf("no multipath TCP here: %v", err)
	}
	unix.Close(fd)
	set(t, c, Table{TCP: addrs{public4: greeter(t, "four", "127.0.0.1:0")}})
	node := start(t, "node", c.Cgroup())
	if said := node.ask("mptcp %s", public4); !strings.HasPrefix(said, "four ") {
		t.Errorf("multipath TCP: %s", said)
	}
}

func TestUDP(t *testing.T) {
	c := open(t)
	four, six := echo(t, "four", "127.0.0.1:0"), echo(t, "six", "[::1]:0")
	set(t, c, Table{UDP: addrs{public4: four, other4: four, public6: six}, TCP: addrs{public4: greeter(t, "tcp", "127.0.0.1:0")}})
	node := start(t, "node", c.Cgroup())
	for _, addr := range []netip.AddrPort{public4, other4} {
		want(t, "IPv4", node.ask("udp %s", addr), "four as "+addr.String())
		want(t, "IPv4, connected", node.ask("udpConnected %s", addr), fmt.Sprintf("four as %s from %s", addr, addr))
	}
	want(t, "IPv6", node.ask("udp %s", public6), "six as "+public6.String())
	want(t, "IPv6, connected", node.ask("udpConnected %s", public6), fmt.Sprintf("six as %s from %s", public6, public6))
	want(t, "not in the table", node.ask("udp %s", four), "four as "+four.String())
	// A service of UDP is none of TCP.
	want(t, "TCP", node.ask("tcp %s", public4), "tcp as "+public4.String())
	if said := node.ask("tcp %s", other4); !strings.Contains(said, "connection refused") {
		t.Errorf("TCP to a service of UDP: %s", said)
	}
}

func TestAdd(t *testing.T) {
	c := open(t)
	set(t, c, Table{TCP: addrs{public4: greeter(t, "four", "127.0.0.1:0")}})
	node := start(t, "node", nil)
	if said := node.ask("tcp %s", public4); !strings.Contains(said, "connection refused") {
		t.Errorf("before: %s", said)
	}
	if err := c.Add(node.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	want(t, "after", node.ask("tcp %s", public4), "four as "+public4.String())
	node.kill()
	if err := c.Add(node.cmd.Process.Pid); err == nil {
		t.Error("a process that has ended was moved")
	}
}

// The agent's death changes nothing for the node, and the next agent takes over.
func TestAgentKilled(t *testing.T) {
	o := newOptions(t)
	four, five := greeter(t, "four", "127.0.0.1:0"), greeter(t, "five", "127.0.0.1:0")
	agent := start(t, "agent", nil)
	if err := json.NewEncoder(agent.in).Encode(agentOptions{o, addrs{public4: four}}); err != nil {
		t.Fatal(err)
	}
	want(t, "the agent", agent.hear(), "ready")

	looks := mustOpen(t, o) // to find the cgroup
	t.Cleanup(func() { remove(t, looks) })
	node := start(t, "node", looks.Cgroup())
	agent.kill()
	want(t, "without an agent", node.ask("tcp %s", public4), "four as "+public4.String())

	c := mustOpen(t, o)
	if !c.Adopted() {
		t.Error("the second agent has not found everything in place")
	}
	want(t, "adopted", node.ask("tcp %s", public4), "four as "+public4.String())
	if got, err := c.Table(); err != nil || !maps.Equal(got.TCP, addrs{public4: four}) || len(got.UDP) != 0 {
		t.Errorf("the table in force: %v, %v", got, err)
	}
	set(t, c, Table{TCP: addrs{public4: five}})
	want(t, "a new table", node.ask("tcp %s", public4), "five as "+public4.String())
}

// An agent that died half way through Open is no hindrance, nor is a cgroup that
// someone has removed.
func TestOpenMakesWhatIsMissing(t *testing.T) {
	o := newOptions(t)
	table := Table{TCP: addrs{public4: greeter(t, "four", "127.0.0.1:0")}}
	c := mustOpen(t, o)
	if c.Adopted() {
		t.Error("the first agent has found something in place")
	}
	set(t, c, table)
	check := func(what string) {
		t.Helper()
		d := mustOpen(t, o)
		if d.Adopted() {
			t.Errorf("%s: adopted", what)
		}
		set(t, d, table)
		node := start(t, "node", d.Cgroup())
		want(t, what, node.ask("tcp %s", public4), "four as "+public4.String())
		node.kill()
	}
	for _, name := range []string{"connect4", "getpeername4", "dialled"} {
		if err := os.Remove(filepath.Join(c.dir, name)); err != nil {
			t.Fatal(err)
		}
		if name == "dialled" { // an attachment to the old one is of no use to the new
			if err := os.RemoveAll(c.dir); err != nil {
				t.Fatal(err)
			}
		}
		check("without " + name)
	}
	if err := os.Remove(c.Cgroup().Name()); err != nil {
		t.Fatal(err)
	}
	check("without the cgroup")
	remove(t, mustOpen(t, o))
}

// What another version of moult has attached serves until the new table is in
// force.
func TestOtherSchema(t *testing.T) {
	o := newOptions(t)
	table := Table{TCP: addrs{public4: greeter(t, "four", "127.0.0.1:0")}}
	old := mustOpen(t, o)
	set(t, old, table)
	stale := filepath.Join(o.Dir, "connect_"+o.Name+"_v0")
	if err := os.Rename(old.dir, stale); err != nil {
		t.Skipf("pins cannot be moved here: %v", err)
	}
	c := mustOpen(t, o)
	node := start(t, "node", c.Cgroup())
	want(t, "before the new table", node.ask("tcp %s", public4), "four as "+public4.String())
	set(t, c, table)
	want(t, "after", node.ask("tcp %s", public4), "four as "+public4.String())
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old pins: %v", err)
	}
	node.kill()
	remove(t, c)
}

// While the table changes all the time, no call to what stays in it fails, and
// what is changed leads to one of its two places.
func TestSetUnderLoad(t *testing.T) {
	if said := underLoad(t, func(c *Connect, table Table) { set(t, c, table) }); !strings.Contains(said, " 0 failed,") {
		t.Error(said)
	} else {
		t.Log(said)
	}
}

// The test above catches a table that is taken away before the next is there.
func TestSetUnderLoadCatches(t *testing.T) {
	said := underLoad(t, func(c *Connect, table Table) {
		set(t, c, Table{})
		set(t, c, table)
	})
	if strings.Contains(said, " 0 failed,") {
		t.Errorf("a gap in the table was not seen: %s", said)
	}
}

func underLoad(t *testing.T, change func(*Connect, Table)) string {
	c := open(t)
	four, five := greeter(t, "four", "127.0.0.1:0"), greeter(t, "five", "127.0.0.1:0")
	tables := make([]Table, 4)
	for i := range tables {
		table := addrs{public4: four, other4: []netip.AddrPort{four, five}[i%2]}
		for port := range uint16(200 * i) {
			table[netip.AddrPortFrom(public4.Addr(), 10000+port)] = five
		}
		tables[i] = Table{TCP: table}
	}
	set(t, c, tables[0])
	node := start(t, "node", c.Cgroup())
	stop := filepath.Join(t.TempDir(), "stop")
	node.say("load %s %s=four %s=four,five", stop, public4, other4)
	for i := range 30 {
		change(c, tables[i%len(tables)])
	}
	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return node.hear()
}

// One entry that cannot be does not keep the others from being in force: it is left
// out, and named.
func TestBadEntries(t *testing.T) {
	c := open(t)
	good := netip.MustParseAddrPort("10.7.7.7:7000")
	zoned := netip.AddrPortFrom(netip.MustParseAddr("fe80::1%lo"), 1)
	mapped := netip.AddrPortFrom(netip.AddrFrom16(public4.Addr().As16()), public4.Port())
	for what, bad := range map[string]addrs{
		"families": {public4: public6}, "zone": {zoned: public6}, "port 0": {netip.AddrPortFrom(public4.Addr(), 0): other4},
		"invalid": {public4: netip.AddrPort{}}, "any": {netip.MustParseAddrPort("0.0.0.0:1"): other4},
		"to any": {public4: netip.MustParseAddrPort("0.0.0.0:1")}, "one address twice": {public4: other4, mapped: other4},
	} {
		table := Table{TCP: maps.Clone(bad), UDP: addrs{good: other4}}
		table.TCP[good] = other4
		for range 2 { // it is said each time, also where nothing has changed
			left, err := c.Set(table)
			if err != nil || len(left) != 1 || left[0].Network != "tcp" || left[0].Why == nil {
				t.Fatalf("%s: left out %v, %v, want the one bad entry", what, left, err)
			}
			if _, named := bad[left[0].From]; !named {
				t.Errorf("%s: left out %v", what, left)
			}
		}
		got, err := c.Table()
		if err != nil || len(got.TCP) != len(bad) || got.TCP[good] != other4 || !maps.Equal(got.UDP, table.UDP) {
			t.Errorf("%s: in force is %v, %v", what, got, err)
		}
	}
	big := addrs{}
	for i := range MaxEntries + 2 {
		big[netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 16), byte(i >> 8)}), uint16(i&255)+1)] = other4
	}
	left, err := c.Set(Table{TCP: big})
	got, err2 := c.Table()
	if err != nil || err2 != nil || len(left) != 2 || len(got.TCP) != MaxEntries {
		t.Errorf("too many: %d left out, %v; %d in force, %v", len(left), err, len(got.TCP), err2)
	}
}

func TestBadInput(t *testing.T) {
	c := open(t)
	for _, o := range []Options{
		{Dir: t.TempDir(), Name: "a"}, {Dir: "/nowhere", Name: "a"}, {Dir: filepath.Dir(c.dir), Name: "../a"}, {Dir: filepath.Dir(c.dir), Name: ""},
		{Dir: filepath.Dir(c.dir), Name: "a", Cgroup: t.TempDir()}, {Dir: filepath.Dir(c.dir), Name: "a", Cgroup: "relative"},
	} {
		if _, err := Open(o); err == nil {
			t.Errorf("opened %+v", o)
		}
		if err := Probe(o); err == nil {
			t.Errorf("probed %+v", o)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Set(Table{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Set after Close: %v", err)
	}
	if _, err := c.Table(); !errors.Is(err, ErrClosed) {
		t.Errorf("Table after Close: %v", err)
	}
}

// Without the rights for it, the reason is told in words.
func TestProbeWithoutRights(t *testing.T) {
	newOptions(t) // it works as root
	if said := start(t, "nobody", nil).hear(); !strings.HasPrefix(said, "true ") || !strings.Contains(said, "CAP_BPF") || !strings.Contains(said, "user 65534") {
		t.Error(said)
	}
}

func TestFullTable(t *testing.T) {
	c := open(t)
	full := addrs{}
	for i := range MaxEntries - 1 {
		full[netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 16), byte(i >> 8)}), uint16(i&255)+1)] = other4
	}
	full[public4] = greeter(t, "four", "127.0.0.1:0")
	set(t, c, Table{TCP: full})
	set(t, c, Table{TCP: addrs{other4: public4}}) // and all of it goes
	set(t, c, Table{TCP: full})
	want(t, "full", start(t, "node", c.Cgroup()).ask("tcp %s", public4), "four as "+public4.String())
	if got, err := c.Table(); err != nil || len(got.TCP) != MaxEntries {
		t.Errorf("%d entries, %v", len(got.TCP), err)
	}
}

func TestFirstCgroup2(t *testing.T) {
	for text, want := range map[string]string{
		"": "",
		"25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n35 25 0:30 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n":     "/sys/fs/cgroup/unified",
		"35 25 0:30 /part /a rw - cgroup2 none rw\n36 25 0:30 / /with\\040space rw - cgroup2 none rw\n37 25 0:30 / /b rw - cgroup2 none rw\n": "/with space",
		"35 25 0:30 / /only rw - cgroup none rw\n": "",
	} {
		mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(text), firstCgroup2)
		if err != nil || len(mounts) > 1 || (len(mounts) == 1) != (want != "") || want != "" && mounts[0].Mountpoint != want {
			t.Errorf("%q: %v, %v, want %q", text, mounts, err, want)
		}
	}
}

// BenchmarkConnect connects datagram sockets in a cgroup without a program, in one
// whose table does not have the destination, and to a destination that is in the
// table; by turns, so that the ratios are of one machine in one state.
func BenchmarkConnect(b *testing.B) {
	c := open(b)
	set(b, c, Table{UDP: addrs{public4: other4}})
	outside, inside := start(b, "node", nil), start(b, "node", c.Cgroup())
	ways := []struct {
		name string
		node *proc
		to   netip.AddrPort
		took time.Duration
	}{{"outside", outside, other4, 0}, {"again", outside, other4, 0}, {"miss", inside, other4, 0}, {"hit", inside, public4, 0}}
	const batch = 20000
	n := 0
	for b.Loop() {
		n++
		for i := range ways {
			w := &ways[i]
			ns, err := strconv.Atoi(w.node.ask("bench %d %s", batch, w.to))
			if err != nil {
				b.Fatal(err)
			}
			w.took += time.Duration(ns)
		}
	}
	for _, w := range ways {
		b.ReportMetric(float64(w.took.Nanoseconds())/float64(n*batch), w.name+"-ns/connect")
	}
}
