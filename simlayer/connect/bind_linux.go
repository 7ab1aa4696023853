package connect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Binder has what a node binds for UDP bound elsewhere. It is safe for concurrent
// use.
type Binder struct {
	cgroup *os.File

	mu    sync.Mutex
	binds *ebpf.Map // mu; nil once closed
	links []link.Link
	now   []endpoint // mu; the keys in force
}

// OpenBinder attaches to the node's cgroup, which it makes where it is missing, what
// replaces the addresses that sockets of UDP are bound to; none yet. It ends with
// the Binder or its process: sockets that are bound stay so, and later ones are bound
// where their software says. Options.Dir is not used. Errors are as with Open.
func OpenBinder(o Options) (_ *Binder, err error) {
	b := &Binder{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("bind for %q: %w", o.Name, explain(err)), b.Close())
		}
	}()
	if err := o.validate(); err != nil {
		return nil, err
	}
	if b.cgroup, err = openCgroup(o.Cgroup, o.Name); err != nil {
		return nil, err
	}
	if b.binds, err = ebpf.NewMap(bindSpec()); err != nil {
		return nil, fmt.Errorf("make a BPF map: %w", err)
	}
	for _, h := range bindHooks(b.binds) {
		l, err := h.hold(b.cgroup)
		if err != nil {
			return nil, fmt.Errorf("attach the program for %s to the cgroup %s: %w", h.name, b.cgroup.Name(), err)
		}
		b.links = append(b.links, l)
	}
	return b, nil
}

// hold attaches the hook's program for as long as the link is open.
func (h hook) hold(cgroup *os.File) (l link.Link, err error) {
	prog, err := ebpf.NewProgram(h.spec(shared{}))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, prog.Close()) }()
	return link.AttachCgroup(link.CgroupOptions{Path: cgroup.Name(), Attach: h.attach, Program: prog})
}

// Cgroup returns the folder of the node's cgroup. The file is the Binder's.
func (b *Binder) Cgroup() *os.File { return b.cgroup }

// Set says which addresses are replaced, and by what; all others are not. It holds for
// sockets of this process's user that have not set SO_REUSEPORT: at the address that
// stands there they join the group of whoever has it with SO_REUSEPORT. Others are bound
// where their software says, since they could not join it, or share their own address
// among several.
func (b *Binder) Set(udp map[netip.AddrPort]netip.AddrPort) error {
	keys, values := make([]endpoint, 0, len(udp)), make([]bindValue, 0, len(udp))
	for from, to := range udp {
		if err := checkEntry(from, to); err != nil {
			return fmt.Errorf("bind %s for %s: %w", to, from, err)
		}
		keys = append(keys, bindKey(netip.AddrPortFrom(from.Addr().Unmap(), from.Port())))
		values = append(values, bindValue{at: newEndpoint(to, 0), user: uint32(os.Geteuid())})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.binds == nil {
		return ErrClosed
	}
	for _, key := range b.now {
		if err := b.binds.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("bind: forget an address: %w", err)
		}
	}
	b.now = keys
	for i, key := range keys {
		if err := b.binds.Put(key, values[i].bytes()); err != nil {
			return fmt.Errorf("bind: tell the kernel of an address: %w", explain(err))
		}
	}
	return nil
}

// Close ends replacing. It may be called more than once.
func (b *Binder) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for _, l := range b.links {
		errs = append(errs, l.Close())
	}
	b.links = nil
	if b.binds != nil {
		errs = append(errs, b.binds.Close())
		b.binds = nil
	}
	if b.cgroup != nil {
		if err := b.cgroup.Close(); !errors.Is(err, fs.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// RemoveCgroup removes the cgroup of a node. It is no error where there is none, or
// where processes are still in it: then it stays.
func RemoveCgroup(o Options) error {
	if err := o.validate(); err != nil {
		return err
	}
	parent := o.Cgroup
	if parent == "" {
		mount, err := findCgroup2()
		if errors.Is(err, ErrNotSupported) {
			return nil
		}
		if err != nil {
			return err
		}
		parent = filepath.Join(mount, "moult")
	}
	if err := os.Remove(filepath.Join(parent, o.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("remove the node's cgroup: %w", err)
	}
	return nil
}

// bindKey is an endpoint whose last byte tells an IPv4 address from one in IPv6 form:
// that is bound by a socket of another family, which joins no group of the first.
func bindKey(a netip.AddrPort) endpoint {
	e := newEndpoint(a, datagram)
	if a.Addr().Is4() {
		e[bindFamily] = 4
	} else {
		e[bindFamily] = 6
	}
	return e
}

// Offsets in keys and values of the map.
const (
	bindFamily = epType + 1
	bindUser   = 20
)

// bindValue is the address that a socket is bound to instead, if its user is this.
type bindValue struct {
	at   endpoint
	user uint32
}

func (v bindValue) bytes() []byte {
	return binary.NativeEndian.AppendUint32(v.at[:], v.user)
}

func bindSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: "moult_binds", Type: ebpf.Hash, KeySize: 20, ValueSize: 24, MaxEntries: maxBinds}
}

func bindHooks(binds *ebpf.Map) []hook {
	program := func(v6 bool) func(shared) asm.Instructions {
		return func(shared) asm.Instructions { return bindProgram(binds, family{v6}) }
	}
	return []hook{
		{"bind4", ebpf.AttachCGroupInet4Bind, program(false)},
		{"bind6", ebpf.AttachCGroupInet6Bind, program(true)},
	}
}

// bindProgram has a socket join a group at another address. Where the kernel does not
// let it, the socket is bound as its software says.
func bindProgram(binds *ebpf.Map, f family) asm.Instructions {
	const option = zero // a word on the stack
	number := int64(4)
	if f.v6 {
		number = 6
	}
	ins := append(begin(),
		asm.LoadMem(asm.R1, asm.R6, ctxType, asm.Word),
		asm.JNE.Imm(asm.R1, datagram, out))
	ins = append(ins, f.load(dialled)...)
	ins = append(ins,
		asm.StoreImm(asm.RFP, dialled+epType, datagram, asm.Byte),
		asm.StoreImm(asm.RFP, dialled+bindFamily, number, asm.Byte),
		asm.LoadMapPtr(asm.R1, binds.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, dialled),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, out),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.FnGetCurrentUidGid.Call(),
		asm.LoadMem(asm.R1, asm.R7, bindUser, asm.Word),
		asm.LSh.Imm(asm.R0, 32), // the group is above
		asm.RSh.Imm(asm.R0, 32),
		asm.JNE.Reg(asm.R0, asm.R1, out))
	shares := func(call asm.BuiltinFunc) {
		ins = append(ins,
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, unix.SOL_SOCKET),
			asm.Mov.Imm(asm.R3, unix.SO_REUSEPORT),
			asm.Mov.Reg(asm.R4, asm.RFP),
			asm.Add.Imm(asm.R4, option),
			asm.Mov.Imm(asm.R5, 4),
			call.Call(),
			asm.JNE.Imm(asm.R0, 0, out))
	}
	ins = append(ins, asm.StoreImm(asm.RFP, option, 0, asm.Word))
	shares(asm.FnGetsockopt)
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.RFP, option, asm.Word),
		asm.JNE.Imm(asm.R1, 0, out),
		asm.StoreImm(asm.RFP, option, 1, asm.Word))
	shares(asm.FnSetsockopt)
	return append(append(ins, f.rewrite(asm.R7, 0)...), end()...)
}
