package connect

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// Offsets in struct bpf_sock_addr, from the kernel's uapi/linux/bpf.h.
const (
	ctxIP4  = 4
	ctxIP6  = 8
	ctxPort = 24
	ctxType = 32
	ctxSock = 64
)

// Offsets in an endpoint.
const (
	epIP   = 0
	epIP4  = 12
	epPort = 16
	epType = 18
)

// Places on a program's stack. dialled is an endpoint, as a key of the table;
// answer is a key of the map "sent": the socket's cookie, then an address and a
// port; zero is a word.
const (
	dialled    = -24
	zero       = -28
	answer     = -64
	answerAddr = answer + 8
	answerSize = 32
)

// hook is one place of the kernel at which a program runs.
type hook struct {
	name   string
	attach ebpf.AttachType
	build  func(shared) asm.Instructions
}

// shared are the maps that the programs share.
type shared struct {
	// table has one slot, which holds the table in force: a map of its own that
	// is never changed, so that no program sees half an entry.
	table *ebpf.Map
	// dialled has, by socket, the address that its software connected to, and
	// the one that it was connected to instead.
	dialled *ebpf.Map
	// sent has, by socket and the address that a datagram went to, the one that
	// the software sent it to.
	sent *ebpf.Map
}

func hooks() []hook {
	family := func(v6 bool, build func(shared, family) asm.Instructions) func(shared) asm.Instructions {
		return func(m shared) asm.Instructions { return build(m, family{v6}) }
	}
	return []hook{
		// What undoes a change comes before what makes it.
		{"getpeername4", ebpf.AttachCgroupInet4GetPeername, family(false, peerProgram)},
		{"getpeername6", ebpf.AttachCgroupInet6GetPeername, family(true, peerProgram)},
		{"recvmsg4", ebpf.AttachCGroupUDP4Recvmsg, family(false, receiveProgram)},
		{"recvmsg6", ebpf.AttachCGroupUDP6Recvmsg, family(true, receiveProgram)},
		{"connect4", ebpf.AttachCGroupInet4Connect, family(false, connectProgram)},
		{"connect6", ebpf.AttachCGroupInet6Connect, family(true, connectProgram)},
		{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, family(false, sendProgram)},
		{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, family(true, sendProgram)},
	}
}

func (h hook) spec(m shared) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name: "moult_" + h.name[:min(len(h.name), 8)], Type: ebpf.CGroupSockAddr, AttachType: h.attach,
		Instructions: h.build(m), License: "Apache-2.0",
	}
}

const noPrealloc = 1 // BPF_F_NO_PREALLOC

// innerSpec is the map of one table.
func innerSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: "moult_table", Type: ebpf.Hash, KeySize: 20, ValueSize: 20, MaxEntries: MaxEntries, Flags: noPrealloc}
}

// specs are what the shared maps are.
type specs struct{ table, dialled, sent *ebpf.MapSpec }

func newSpecs() specs {
	return specs{
		table: &ebpf.MapSpec{Name: "moult_tables", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: innerSpec()},
		dialled: &ebpf.MapSpec{Name: "moult_dialled", Type: ebpf.SkStorage, KeySize: 4, ValueSize: 40, Flags: noPrealloc,
			Key: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}, Value: pairType()},
		sent: &ebpf.MapSpec{Name: "moult_sent", Type: ebpf.LRUHash, KeySize: answerSize, ValueSize: 20, MaxEntries: maxSent},
	}
}

// pairType describes two endpoints: maps by socket must be described.
func pairType() btf.Type {
	char := &btf.Int{Name: "unsigned char", Size: 1}
	index := &btf.Int{Name: "unsigned int", Size: 4}
	return &btf.Struct{Name: "moult_pair", Size: 40, Members: []btf.Member{
		{Name: "bytes", Type: &btf.Array{Index: index, Type: char, Nelems: 40}},
	}}
}

// family writes the instructions that differ between IPv4 and IPv6. R6 is the
// context in all programs.
type family struct{ v6 bool }

// load puts the context's address and port to a place on the stack.
func (f family) load(at int16) asm.Instructions {
	port := asm.Instructions{
		asm.LoadMem(asm.R1, asm.R6, ctxPort, asm.Word),
		asm.StoreMem(asm.RFP, at+epPort, asm.R1, asm.Half),
	}
	if !f.v6 {
		return append(asm.Instructions{
			asm.StoreImm(asm.RFP, at+epIP, 0, asm.Word),
			asm.StoreImm(asm.RFP, at+epIP+4, 0, asm.Word),
			asm.StoreImm(asm.RFP, at+epIP+8, 0, asm.Half),
			asm.StoreImm(asm.RFP, at+epIP+10, 0xffff, asm.Half),
			asm.LoadMem(asm.R1, asm.R6, ctxIP4, asm.Word),
			asm.StoreMem(asm.RFP, at+epIP4, asm.R1, asm.Word),
		}, port...)
	}
	var out asm.Instructions
	for i := int16(0); i < 16; i += 4 {
		out = append(out,
			asm.LoadMem(asm.R1, asm.R6, ctxIP6+i, asm.Word),
			asm.StoreMem(asm.RFP, at+epIP+i, asm.R1, asm.Word))
	}
	return append(out, port...)
}

// rewrite puts the endpoint at src+off in the place of the context's.
func (f family) rewrite(src asm.Register, off int16) asm.Instructions {
	var out asm.Instructions
	if f.v6 {
		for i := int16(0); i < 16; i += 4 {
			out = append(out,
				asm.LoadMem(asm.R1, src, off+epIP+i, asm.Word),
				asm.StoreMem(asm.R6, ctxIP6+i, asm.R1, asm.Word))
		}
	} else {
		out = append(out,
			asm.LoadMem(asm.R1, src, off+epIP4, asm.Word),
			asm.StoreMem(asm.R6, ctxIP4, asm.R1, asm.Word))
	}
	return append(out,
		asm.LoadMem(asm.R1, src, off+epPort, asm.Half),
		asm.StoreMem(asm.R6, ctxPort, asm.R1, asm.Word))
}

// unlessSame goes to the label unless the endpoint at src+off is the context's.
func (f family) unlessSame(src asm.Register, off int16, label string) asm.Instructions {
	var out asm.Instructions
	same := func(at, of int16, size asm.Size) {
		out = append(out,
			asm.LoadMem(asm.R1, asm.R6, at, asm.Word),
			asm.LoadMem(asm.R2, src, off+of, size),
			asm.JNE.Reg(asm.R1, asm.R2, label))
	}
	if f.v6 {
		for i := int16(0); i < 16; i += 4 {
			same(ctxIP6+i, epIP+i, asm.Word)
		}
	} else {
		same(ctxIP4, epIP4, asm.Word)
	}
	same(ctxPort, epPort, asm.Half)
	return out
}

const out = "out"

// begin saves the context.
func begin() asm.Instructions { return asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)} }

// end lets the call go on.
func end() asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, 1).WithSymbol(out), asm.Return()}
}

// lookup finds what the destination is replaced by: R7 afterwards.
func lookup(m shared, f family) asm.Instructions {
	ins := f.load(dialled)
	return append(ins,
		asm.LoadMem(asm.R1, asm.R6, ctxType, asm.Word),
		asm.StoreMem(asm.RFP, dialled+epType, asm.R1, asm.Byte),
		asm.StoreImm(asm.RFP, dialled+epType+1, 0, asm.Byte),
		asm.StoreImm(asm.RFP, zero, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, m.table.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, zero),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, out),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, dialled),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, out),
		asm.Mov.Reg(asm.R7, asm.R0))
}

// storage finds what is known of the socket, or begins it: R0 afterwards, 0 for
// nothing.
func storage(m shared, create int32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, m.dialled.FD()),
		asm.LoadMem(asm.R2, asm.R6, ctxSock, asm.DWord),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, create),
		asm.FnSkStorageGet.Call(),
	}
}

func connectProgram(m shared, f family) asm.Instructions {
	const rewrite = "rewrite"
	ins := append(begin(), lookup(m, f)...)
	ins = append(ins, storage(m, 1)...)
	ins = append(ins, asm.JEq.Imm(asm.R0, 0, rewrite))
	for i := int16(0); i < 20; i += 4 {
		ins = append(ins,
			asm.LoadMem(asm.R1, asm.RFP, dialled+i, asm.Word),
			asm.StoreMem(asm.R0, i, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, asm.R7, i, asm.Word),
			asm.StoreMem(asm.R0, 20+i, asm.R1, asm.Word))
	}
	to := f.rewrite(asm.R7, 0)
	to[0] = to[0].WithSymbol(rewrite)
	return append(append(ins, to...), end()...)
}

// peerProgram shows the address that the software has connected to.
func peerProgram(m shared, f family) asm.Instructions {
	return append(append(begin(), connected(m, f)...), end()...)
}

// connected replaces the address to which the socket was connected by the one
// that its software named.
func connected(m shared, f family) asm.Instructions {
	ins := storage(m, 0)
	ins = append(ins, asm.JEq.Imm(asm.R0, 0, out), asm.Mov.Reg(asm.R7, asm.R0))
	// A socket may have been connected anew, to elsewhere.
	ins = append(ins, f.unlessSame(asm.R7, 20, out)...)
	return append(ins, f.rewrite(asm.R7, 0)...)
}

// cookie begins a key of the map "sent".
func cookie() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnGetSocketCookie.Call(),
		asm.StoreMem(asm.RFP, answer, asm.R0, asm.DWord),
		asm.StoreImm(asm.RFP, answerAddr+epPort, 0, asm.Word),
		asm.StoreImm(asm.RFP, answerAddr+epPort+4, 0, asm.Word),
	}
}

func sendProgram(m shared, f family) asm.Instructions {
	ins := append(begin(), lookup(m, f)...)
	ins = append(ins, cookie()...)
	for i := int16(0); i < 16; i += 4 {
		ins = append(ins,
			asm.LoadMem(asm.R1, asm.R7, epIP+i, asm.Word),
			asm.StoreMem(asm.RFP, answerAddr+epIP+i, asm.R1, asm.Word))
	}
	ins = append(ins,
		asm.LoadMem(asm.R1, asm.R7, epPort, asm.Half),
		asm.StoreMem(asm.RFP, answerAddr+epPort, asm.R1, asm.Half),
		asm.LoadMapPtr(asm.R1, m.sent.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, answer),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, dialled),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnMapUpdateElem.Call())
	return append(append(ins, f.rewrite(asm.R7, 0)...), end()...)
}

// receiveProgram shows the address that the software has sent to.
func receiveProgram(m shared, f family) asm.Instructions {
	const bySocket = "bySocket"
	ins := append(begin(), cookie()...)
	ins = append(ins, f.load(answerAddr)...)
	ins = append(ins,
		asm.LoadMapPtr(asm.R1, m.sent.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, answer),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, bySocket),
		asm.Mov.Reg(asm.R7, asm.R0))
	ins = append(ins, f.rewrite(asm.R7, 0)...)
	ins = append(ins, asm.Ja.Label(out))
	rest := connected(m, f)
	rest[0] = rest[0].WithSymbol(bySocket)
	return append(append(ins, rest...), end()...)
}
