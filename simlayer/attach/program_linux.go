package attach

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// schema numbers what is pinned: the layout of keys and what the program does.
// It is part of the name, so that an agent never takes another's for its own.
// It only ever grows.
const schema = 1

// key is an address in the map: in the machine's order the family in the lower
// and the protocol in the upper half of a word, and a word with the port; then
// the IPv4 address and the IPv6 address as they are on the wire, one of them 0.
// A wildcard has both 0.
type key [keySize]byte

const keySize = 28

func makeKey(network string, ip netip.Addr, port uint16) key {
	var k key
	family, protocol := uint32(unix.AF_INET), uint32(unix.IPPROTO_TCP)
	if network == "udp" {
		protocol = unix.IPPROTO_UDP
	}
	if ip.Is4() {
		copy(k[8:12], ip.AsSlice())
	} else {
		family = unix.AF_INET6
		copy(k[12:28], ip.AsSlice())
	}
	binary.NativeEndian.PutUint32(k[0:], family|protocol<<16)
	binary.NativeEndian.PutUint32(k[4:], uint32(port))
	return k
}

// entry is the reverse of makeKey.
func (k key) entry() (network string, addr netip.AddrPort) {
	kind := binary.NativeEndian.Uint32(k[0:])
	network = "tcp"
	if kind>>16 == unix.IPPROTO_UDP {
		network = "udp"
	}
	ip := netip.AddrFrom4([4]byte(k[8:12]))
	if kind&0xffff == unix.AF_INET6 {
		ip = netip.AddrFrom16([16]byte(k[12:28]))
	}
	return network, netip.AddrPortFrom(ip, uint16(binary.NativeEndian.Uint32(k[4:])))
}

func mapSpec(entries int) *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name:       "moult_steer",
		Type:       ebpf.SockHash,
		KeySize:    keySize,
		ValueSize:  8, // a cookie when read, a descriptor when written
		MaxEntries: uint32(entries),
	}
}

// Offsets in struct bpf_sk_lookup, which is the kernel's ABI.
const (
	ctxFamily    = 8
	ctxProtocol  = 12
	ctxLocalIP4  = 40
	ctxLocalIP6  = 44
	ctxLocalPort = 60 // in the machine's order, unlike the remote one
)

const (
	skPass = 1
	// assignReplace lets this program have the last word over those before it:
	// of two agents' the one that came last.
	assignReplace = 1
)

// program looks the destination up, exactly and then as a wildcard, and assigns
// the socket. What is not there, or cannot be assigned, takes its usual way.
// A group of SO_REUSEPORT sockets goes on sharing the work among its members.
func program(addresses *ebpf.Map) *ebpf.ProgramSpec {
	const stack = -int16(keySize)
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R6, ctxProtocol, asm.Word),
		asm.LSh.Imm(asm.R2, 16),
		asm.LoadMem(asm.R3, asm.R6, ctxFamily, asm.Word),
		asm.Or.Reg(asm.R2, asm.R3),
		asm.StoreMem(asm.RFP, stack, asm.R2, asm.Word),
		asm.LoadMem(asm.R2, asm.R6, ctxLocalPort, asm.Word),
		asm.StoreMem(asm.RFP, stack+4, asm.R2, asm.Word),
		// The kernel reads 0 for the address of the other family.
		asm.LoadMem(asm.R2, asm.R6, ctxLocalIP4, asm.Word),
		asm.StoreMem(asm.RFP, stack+8, asm.R2, asm.Word),
	}
	for i := int16(0); i < 16; i += 4 {
		ins = append(ins,
			asm.LoadMem(asm.R2, asm.R6, ctxLocalIP6+i, asm.Word),
			asm.StoreMem(asm.RFP, stack+12+i, asm.R2, asm.Word))
	}
	lookup := asm.Instructions{
		asm.LoadMapPtr(asm.R1, addresses.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, int32(stack)),
		asm.FnMapLookupElem.Call(),
		asm.JNE.Imm(asm.R0, 0, "assign"),
	}
	ins = append(ins, lookup...)
	for i := int16(8); i < keySize; i += 4 {
		ins = append(ins, asm.StoreImm(asm.RFP, stack+i, 0, asm.Word))
	}
	ins = append(ins, lookup...)
	ins = append(ins,
		asm.Ja.Label("pass"),
		asm.Mov.Reg(asm.R7, asm.R0).WithSymbol("assign"),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, assignReplace),
		asm.FnSkAssign.Call(),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSkRelease.Call(),
		asm.Mov.Imm(asm.R0, skPass).WithSymbol("pass"),
		asm.Return(),
	)
	return &ebpf.ProgramSpec{
		Name:         "moult_steer",
		Type:         ebpf.SkLookup,
		AttachType:   ebpf.AttachSkLookup,
		License:      "Apache-2.0", // no helper that it calls asks for another
		Instructions: ins,
	}
}

// loadProgram makes the map and the program, attached to nothing.
func loadProgram(entries int) (*ebpf.Map, *ebpf.Program, error) {
	addresses, err := ebpf.NewMap(mapSpec(entries))
	if err != nil {
		return nil, nil, fmt.Errorf("make the map of addresses: %w", rights(err))
	}
	prog, err := ebpf.NewProgram(program(addresses))
	if err != nil {
		addresses.Close()
		return nil, nil, fmt.Errorf("load the sk_lookup program: %w", rights(err))
	}
	return addresses, prog, nil
}
