package attach

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Names in the folder of a Steer. The BPF file system allows no dots in them.
const (
	pinPrefix  = "steer-v"
	pinMap     = "addresses"
	pinLink    = "link"
	pinNew     = "-new"
	pinOutdate = "-outdated"
)

// Steer points public addresses at sockets of the node's. What it points stays
// so after Close and after the process has died. Its methods may be called at
// the same time.
type Steer struct {
	dir  string
	name string
	log  *slog.Logger

	mu        sync.Mutex
	addresses *ebpf.Map // under mu; nil once closed
	link      link.Link // under mu
	adopted   bool
	earlier   bool // under mu: there may be pins of other schemas
}

// OpenSteer attaches to this network namespace what an earlier agent pinned in
// dir, or else a new program with no addresses. dir is the agent's own, below a
// BPF file system ([FindBPFFS]), is made where it is missing, and has no dots in
// its names. What is pinned there by a moult of another schema, or for another
// network namespace, stays in force until [Steer.Settle], Clear or Remove: point
// the addresses anew first.
//
// Open the agent's own listeners before, or callers are refused while nothing is
// pointed.
func OpenSteer(dir string, o Options) (*Steer, error) {
	return openSteer(dir, pinPrefix+strconv.Itoa(schema), o)
}

func openSteer(dir, name string, o Options) (*Steer, error) {
	if o.Entries == 0 {
		o.Entries = DefaultEntries
	}
	s := &Steer{dir: dir, name: name, log: o.Logger, earlier: true}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	err := checkDir(dir)
	if err == nil && (o.Entries < 0 || o.Entries > MaxEntries) {
		err = fmt.Errorf("%d entries, want 1 to %d", o.Entries, MaxEntries)
	}
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = s.adopt()
	}
	if errors.Is(err, errOutdated) || errors.Is(err, os.ErrNotExist) {
		err = s.create(o.Entries, err)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("steer callers from %s: %w", dir, err)
	}
	return s, nil
}

// errOutdated says that what is pinned is of no use here.
var errOutdated = errors.New("what is pinned is outdated")

// adopt opens what an earlier agent pinned.
func (s *Steer) adopt() error {
	dir := filepath.Join(s.dir, s.name)
	l, err := link.LoadPinnedLink(filepath.Join(dir, pinLink), nil)
	if err != nil {
		return fmt.Errorf("open the pinned link: %w", rights(err))
	}
	s.link = l
	if s.addresses, err = ebpf.LoadPinnedMap(filepath.Join(dir, pinMap), nil); err != nil {
		return fmt.Errorf("open the pinned map: %w", rights(err))
	}
	want := mapSpec(1)
	if m := s.addresses; m.Type() != want.Type || m.KeySize() != want.KeySize || m.ValueSize() != want.ValueSize {
		return fmt.Errorf("%w: the map is %v", errOutdated, m)
	}
	info, err := l.Info()
	if err != nil {
		return err
	}
	ns, err := namespace()
	if err != nil {
		return err
	}
	// The program of a namespace that is gone is attached to nothing.
	if of := info.NetNs(); of == nil || uint64(of.NetnsInode) != ns {
		return fmt.Errorf("%w: it is for another network namespace", errOutdated)
	}
	s.adopted = true
	s.log.Info("steering goes on as an earlier agent left it", "folder", dir)
	return nil
}

// create attaches a new program and pins it. It is named last, in one step: a
// crash leaves what Settle removes.
func (s *Steer) create(entries int, why error) error {
	if err := s.release(); err != nil {
		return err
	}
	addresses, prog, err := loadProgram(entries)
	if err != nil {
		return err
	}
	s.addresses = addresses
	defer prog.Close()
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return err
	}
	defer ns.Close()
	l, err := link.AttachNetNs(int(ns.Fd()), prog)
	if err != nil {
		return fmt.Errorf("attach the program to the network namespace: %w", rights(err))
	}
	s.link = l
	dir := filepath.Join(s.dir, s.name)
	if _, err := os.Stat(dir); err == nil {
		s.log.Warn("steering starts anew", "folder", dir, "reason", why)
		if err := removePins(dir + pinOutdate); err != nil {
			return err
		}
		if err := os.Rename(dir, dir+pinOutdate); err != nil {
			return err
		}
	}
	if err := removePins(dir + pinNew); err != nil {
		return err
	}
	if err := os.Mkdir(dir+pinNew, 0o700); err != nil {
		return err
	}
	if err := addresses.Pin(filepath.Join(dir+pinNew, pinMap)); err != nil {
		return fmt.Errorf("pin the map: %w", rights(err))
	}
	if err := l.Pin(filepath.Join(dir+pinNew, pinLink)); err != nil {
		return fmt.Errorf("pin the link: %w", rights(err))
	}
	return os.Rename(dir+pinNew, dir)
}

// namespace returns the inode of this process's network namespace.
func namespace() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("which network namespace this is: %w", err)
	}
	return st.Ino, nil
}

// Adopted says whether OpenSteer found what an earlier agent pinned.
func (s *Steer) Adopted() bool { return s.adopted }

// Point leads new TCP connections, or UDP datagrams, for an address to a socket:
// one that listens, or an unconnected one that is bound, to whatever address. An
// earlier socket of the address is replaced in one step. For UDP the socket has
// the address itself, or its port and a wildcard, since its answers come from
// where it is bound; see PointOneWay.
//
// The address may be a wildcard; [::] means IPv4 as well, as far as the socket
// takes it, and excludes an entry 0.0.0.0 of that port. The socket is not kept:
// when all others have closed it the entry is gone. ErrSocket says that it
// cannot serve the address, and why.
func (s *Steer) Point(network string, addr netip.AddrPort, sock *os.File) error {
	k, err := inspectFile(sock)
	if err == nil && network == "udp" && k.serves(addr) == 0 {
		err = fmt.Errorf("%w: its answers would come from %s, which callers do not take for answers: attach it by relay, or let the software bind %s too (the agent's socket and its own with SO_REUSEADDR)", ErrSocket, k.local, addr)
	}
	if err == nil {
		err = s.point(network, addr, sock)
	}
	if err != nil {
		return fmt.Errorf("steer %s %s: %w", network, addr, err)
	}
	return nil
}

// PointOneWay is Point for datagrams that nobody answers, or whose answers may
// come from the socket's own address: the kernel turns only the way there.
func (s *Steer) PointOneWay(network string, addr netip.AddrPort, sock *os.File) error {
	err := s.point(network, addr, sock)
	if err != nil {
		return fmt.Errorf("steer %s %s: %w", network, addr, err)
	}
	return nil
}

func (s *Steer) point(network string, addr netip.AddrPort, sock *os.File) error {
	keys, err := addressKeys(network, addr)
	if err != nil {
		return err
	}
	k, err := inspectFile(sock)
	if err != nil {
		return err
	}
	if err := suitable(k, network); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addresses == nil {
		return ErrClosed
	}
	pointed := false
	for _, at := range keys {
		_, a := at.entry()
		if !k.takes(a.Addr()) {
			// An earlier socket may have taken it.
			if err := s.delete(at); err != nil {
				return err
			}
			continue
		}
		if err := control(sock, func(fd int) error { return s.addresses.Update(at, uint64(fd), ebpf.UpdateAny) }); err != nil {
			return refused(err)
		}
		pointed = true
	}
	if !pointed {
		return fmt.Errorf("%w: it is bound to %s and does not take that address family: let the software listen on the other family, or on [::] without IPV6_V6ONLY", ErrSocket, k.local)
	}
	return nil
}

// addressKeys returns the keys of an address: two for [::].
func addressKeys(network string, addr netip.AddrPort) ([]key, error) {
	if _, err := socketKind(network); err != nil {
		return nil, err
	}
	ip := addr.Addr().Unmap()
	if !ip.IsValid() || addr.Port() == 0 {
		return nil, errors.New("want an IP address and a port")
	}
	if ip.Zone() != "" {
		return nil, fmt.Errorf("%w: a link-local address belongs to an interface (%s), which steering does not know: attach it by relay", ErrSocket, ip.Zone())
	}
	keys := []key{makeKey(network, ip, addr.Port())}
	if ip == netip.IPv6Unspecified() {
		keys = append(keys, makeKey(network, netip.IPv4Unspecified(), addr.Port()))
	}
	return keys, nil
}

// takes says whether a socket can be assigned packets to an address.
func (s socket) takes(ip netip.Addr) bool {
	if ip.Is4() {
		return s.family == unix.AF_INET || !s.v6only
	}
	return s.family == unix.AF_INET6
}

func suitable(s socket, network string) error {
	kind, err := socketKind(network)
	switch {
	case err != nil:
		return err
	case s.protocol == unix.IPPROTO_MPTCP:
		return multipath()
	case s.kind != kind:
		return fmt.Errorf("%w: it is of another protocol", ErrSocket)
	case network == "tcp" && !s.listening:
		return fmt.Errorf("%w: it does not listen", ErrSocket)
	case network == "udp" && s.connected:
		return fmt.Errorf("%w: it is connected, so it takes datagrams of one peer only", ErrSocket)
	case s.local.Port() == 0:
		return fmt.Errorf("%w: it is not bound", ErrSocket)
	}
	return nil
}

// refused explains why the map did not take a socket.
func refused(err error) error {
	switch {
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("the map is full: open it with more Options.Entries: %w", err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: the kernel refuses it in its state (closing?): %w", ErrSocket, err)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: the kernel refuses it; another program may have it in a BPF map of its own, or TLS in the kernel: %w", ErrSocket, err)
	}
	return rights(err)
}

// delete removes a key that may be missing.
func (s *Steer) delete(k key) error {
	if err := s.addresses.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove an address from the map: %w", rights(err))
	}
	return nil
}

// Clear lets new connections of an address take their usual way, to the agent's
// listener. It settles first. That nothing was pointed is no error.
func (s *Steer) Clear(network string, addr netip.AddrPort) error {
	err := s.clear(network, addr)
	if err != nil {
		return fmt.Errorf("end steering %s %s: %w", network, addr, err)
	}
	return nil
}

func (s *Steer) clear(network string, addr netip.AddrPort) error {
	keys, err := addressKeys(network, addr)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addresses == nil {
		return ErrClosed
	}
	for _, k := range keys {
		if err := s.delete(k); err != nil {
			return err
		}
	}
	return s.settle()
}

// Pointed lists the addresses whose sockets are still open, unordered.
func (s *Steer) Pointed() ([]Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addresses == nil {
		return nil, fmt.Errorf("list steered addresses: %w", ErrClosed)
	}
	var all []Entry
	seen := map[key]bool{}
	var at, next key
	var from any // nil asks for the first key
	// A key that goes meanwhile makes the kernel begin again.
	for range 4 * (s.addresses.MaxEntries() + 1) {
		err := s.addresses.NextKey(from, &next)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list steered addresses: %w", rights(err))
		}
		at, from = next, &at
		if seen[at] {
			continue
		}
		seen[at] = true
		var cookie uint64
		if err := s.addresses.Lookup(at, &cookie); errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("list steered addresses: %w", rights(err))
		}
		network, addr := at.entry()
		all = append(all, Entry{Network: network, Addr: addr, Cookie: cookie})
	}
	return all, nil
}

// Settle detaches what moults of other schemas pinned in the folder. An agent
// calls it when it has pointed its addresses.
func (s *Steer) Settle() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addresses == nil {
		return ErrClosed
	}
	return s.settle()
}

// settle removes pins of other names. mu is held.
func (s *Steer) settle() error {
	if !s.earlier {
		return nil
	}
	names, err := readNames(s.dir, maxPinned)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == s.name || !strings.HasPrefix(name, pinPrefix) {
			continue
		}
		if err := removePins(filepath.Join(s.dir, name)); err != nil {
			return err
		}
		s.log.Info("detached what another moult had pinned", "folder", filepath.Join(s.dir, name))
	}
	s.earlier = false
	return nil
}

// removePins removes a folder of pins, the link first: what is half removed
// steers nobody. It detaches before, since the kernel gives up a link whose last
// name is removed only some time later.
func removePins(dir string) error {
	l, err := link.LoadPinnedLink(filepath.Join(dir, pinLink), nil)
	if err == nil {
		if ns, ok := l.(*link.NetNsLink); ok {
			err = ns.Detach()
		}
		l.Close()
	}
	// Of a namespace that is gone it is detached already.
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOLINK) {
		return fmt.Errorf("detach the program: %w", rights(err))
	}
	for _, path := range []string{filepath.Join(dir, pinLink), filepath.Join(dir, pinMap), dir} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("unpin: %w", rights(err))
		}
	}
	return nil
}

// Remove detaches the program, with whatever else is pinned in the folder, and
// removes the folder. All callers take their usual way again. It closes.
func (s *Steer) Remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addresses == nil {
		return fmt.Errorf("end steering from %s: %w", s.dir, ErrClosed)
	}
	err := errors.Join(removePins(filepath.Join(s.dir, s.name)), s.settle(), s.release())
	if err == nil {
		err = os.Remove(s.dir)
	}
	if err != nil {
		return fmt.Errorf("end steering from %s: %w", s.dir, err)
	}
	return nil
}

// Close leaves all as it is, pinned, and lets go of it.
func (s *Steer) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.release()
}

func (s *Steer) release() error {
	var errs []error
	if s.addresses != nil {
		errs = append(errs, s.addresses.Close())
		s.addresses = nil
	}
	if s.link != nil {
		errs = append(errs, s.link.Close())
		s.link = nil
	}
	return errors.Join(errs...)
}
