package connect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
)

// ErrNotSupported is wrapped by errors that say that this system, or the rights
// that this process has, do not do for this package.
var ErrNotSupported = errors.New("not supported on this system")

// Options say where a Connect lives. Two that live at once have different names.
type Options struct {
	// Dir is an existing folder of a BPF file system, where what must outlive
	// the agent is pinned.
	Dir string
	// Cgroup is the folder of a cgroup v2 below which the node's cgroup is made;
	// it is made too where it does not exist. "" is "moult" at the root of the
	// mounted cgroup v2: there the node survives the end of the agent's own
	// cgroup.
	Cgroup string
	// Name names the cgroup and the pins: 1 to 64 of a-z, A-Z, 0-9, _ and -.
	Name string
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func (o Options) validate() error {
	if len(o.Name) > maxName || !nameForm.MatchString(o.Name) {
		return fmt.Errorf("name %.80q: want 1 to %d of a-z, A-Z, 0-9, _ and -", o.Name, maxName)
	}
	return nil
}

// Table says which destinations are replaced, and by what. Addresses in IPv6 form
// that are IPv4 addresses count as such.
type Table struct {
	TCP, UDP map[netip.AddrPort]netip.AddrPort
}

// Types of sockets, as the kernel numbers them everywhere but on MIPS, which has
// them the other way round.
const (
	stream   = 1
	datagram = 2
)

// endpoint is an address and a port as the programs have them: an IPv4 address in
// IPv6 form, all in the order of the network. In keys the type of the socket
// follows the port.
type endpoint [20]byte

func newEndpoint(a netip.AddrPort, socket byte) endpoint {
	var e endpoint
	ip := a.Addr().As16()
	copy(e[:16], ip[:])
	binary.BigEndian.PutUint16(e[16:], a.Port())
	e[18] = socket
	return e
}

// parse returns the address and, of a key, the type of the socket.
func (e endpoint) parse() (netip.AddrPort, byte) {
	ip := netip.AddrFrom16([16]byte(e[:16])).Unmap()
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(e[16:])), e[18]
}

// LeftOut is an entry of a Table that cannot be in force. Calls to From go where
// they say.
type LeftOut struct {
	Network  string // "tcp" or "udp"
	From, To netip.AddrPort
	Why      error
}

func (l LeftOut) String() string {
	return fmt.Sprintf("%s, replaced by %s (%s): %v", l.From, l.To, l.Network, l.Why)
}

// encode returns t as the programs read it: keys and, in the same order, values.
// Each entry is judged by itself: one that a peer has made up, or got wrong, must not
// stop the others.
func (t Table) encode() (keys, values []endpoint, left []LeftOut) {
	add := func(m map[netip.AddrPort]netip.AddrPort, network string, socket byte) {
		seen := make(map[endpoint]netip.AddrPort, len(m))
		for _, from := range slices.SortedFunc(maps.Keys(m), netip.AddrPort.Compare) {
			key, to := newEndpoint(from, socket), m[from]
			why := checkEntry(from, to)
			if other, twice := seen[key]; twice && why == nil {
				why = fmt.Errorf("it is one with %s", other)
			}
			if len(keys) == MaxEntries && why == nil {
				why = fmt.Errorf("the table is full: it has %d destinations", MaxEntries)
			}
			if why != nil {
				left = append(left, LeftOut{network, from, to, why})
				continue
			}
			seen[key] = from
			keys, values = append(keys, key), append(values, newEndpoint(to, 0))
		}
	}
	add(t.TCP, "tcp", stream)
	add(t.UDP, "udp", datagram)
	return keys, values, left
}

func checkEntry(from, to netip.AddrPort) error {
	for _, a := range []netip.AddrPort{from, to} {
		switch {
		case !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified():
			return errors.New("want an address and a port")
		case a.Addr().Zone() != "":
			return errors.New("an address with a zone means something else on each network interface; use a global one")
		}
	}
	if from.Addr().Unmap().Is4() != to.Addr().Unmap().Is4() {
		return errors.New("one is IPv4 and the other IPv6; a socket cannot change over")
	}
	return nil
}

// decode is the reverse of encode, for one entry.
func (t *Table) decode(key, value endpoint) {
	from, socket := key.parse()
	to, _ := value.parse()
	m := &t.TCP
	if socket == datagram {
		m = &t.UDP
	}
	if *m == nil {
		*m = map[netip.AddrPort]netip.AddrPort{}
	}
	(*m)[from] = to
}
