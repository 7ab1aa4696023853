package fuel

// Instructions with a meaning here.
const (
	opBlock        = 0x02
	opLoop         = 0x03
	opIf           = 0x04
	opElse         = 0x05
	opEnd          = 0x0b
	opBr           = 0x0c
	opBrIf         = 0x0d
	opBrTable      = 0x0e
	opCall         = 0x10
	opCallIndirect = 0x11
	opSelectTyped  = 0x1c
	opLocalGet     = 0x20
	opLocalSet     = 0x21
	opLocalTee     = 0x22
	opGlobalGet    = 0x23
	opGlobalSet    = 0x24
	opTableGet     = 0x25
	opTableSet     = 0x26
	opMemorySize   = 0x3f
	opMemoryGrow   = 0x40
	opI32Const     = 0x41
	opI64Const     = 0x42
	opF32Const     = 0x43
	opF64Const     = 0x44
	opI32LtS       = 0x48
	opI32Sub       = 0x6b
	opI32ShrU      = 0x76
	opRefNull      = 0xd0
	opRefFunc      = 0xd2
	opMisc         = 0xfc
	opSIMD         = 0xfd

	simdConst = 12
	emptyType = 0x40
)

// codeSection puts the counter into each function.
func (m *module) codeSection(r *reader) {
	n := r.count(MaxFunctions, "function bodies")
	if r.err == nil && n != len(m.funcTypes) {
		r.fail("%d function bodies for %d functions", n, len(m.funcTypes))
	}
	if r.err != nil {
		return
	}
	out := make([]byte, 0, len(r.data)+len(r.data)/4+8)
	out = appendU32(out, uint32(n))
	var f function
	for i := range n {
		size := r.u32()
		if r.err == nil && size > MaxFunctionBytes {
			r.fail("function %d has %d bytes, at most %d", m.importedFuncs+i, size, MaxFunctionBytes)
		}
		in := r.sub(size)
		f = function{m: m, r: in, out: f.out[:0], open: f.open[:0], regions: f.regions[:0]}
		f.rewrite(m.types[m.funcTypes[i]].params)
		if in.err != nil && r.err == nil {
			in.err, r.err = nil, in.err
		}
		if r.err != nil {
			return
		}
		out = append(appendU32(out, uint32(len(f.out))), f.out...)
	}
	if n > 0 {
		m.out[secCode] = out
	}
}

// function is one function that is being rewritten.
type function struct {
	m       *module
	r       *reader
	out     []byte
	open    []byte   // the blocks around, by their instruction; the function is opBlock
	regions []region // the function, and the loops around
	locals  int      // before the rewriting
	temp    uint32   // the new local
}

// region is what is executed at most once each time its charge is taken.
type region struct {
	cost uint32
	at   int // where in out the charge has its number
}

func (f *function) rewrite(params int) {
	f.localTypes(params)
	f.open = append(f.open, opBlock)
	f.charge()
	for len(f.open) > 0 && f.r.err == nil {
		f.instruction()
	}
	if f.r.more() {
		f.r.fail("%d bytes after the end of a function", len(f.r.data)-f.r.pos)
	}
}

// localTypes copies the locals and adds one.
func (f *function) localTypes(params int) {
	r := f.r
	groups := r.count(MaxLocals, "groups of locals")
	start := r.pos
	f.locals = params
	for range groups {
		n := r.u32()
		r.valueType()
		if n > MaxLocals || f.locals+int(n) > MaxLocals {
			r.fail("more than %d locals in one function", MaxLocals)
		}
		if r.err != nil {
			return
		}
		f.locals += int(n)
	}
	if f.m.locals += f.locals; f.m.locals > MaxAllLocals {
		r.fail("more than %d locals in all functions", MaxAllLocals)
	}
	f.temp = uint32(f.locals)
	f.out = appendU32(f.out, uint32(groups)+1)
	f.out = append(f.out, r.data[start:r.pos]...)
	f.out = append(f.out, 1, typeI32)
}

// charge opens a region and writes the instructions that take its cost, which
// is filled in when the region ends.
func (f *function) charge() {
	f.out = append(f.out, opGlobalGet)
	f.out = append(appendU32(f.out, f.m.counter), opI32Const)
	f.regions = append(f.regions, region{cost: 1, at: len(f.out)})
	f.out = append(f.out, make([]byte, paddedSize)...)
	f.out = append(f.out, opI32Sub)
	f.settle()
}

// settle stores the counter, which is on the stack, and asks for more if it is
// below zero.
func (f *function) settle() {
	f.out = appendU32(append(f.out, opLocalTee), f.temp)
	f.out = appendU32(append(f.out, opGlobalSet), f.m.counter)
	f.out = appendU32(append(f.out, opLocalGet), f.temp)
	f.out = append(f.out, opI32Const, 0, opI32LtS, opIf, emptyType)
	f.out = appendU32(append(f.out, opLocalGet), f.temp)
	f.out = appendU32(append(f.out, opCall), f.m.tick)
	f.out = appendU32(append(f.out, opGlobalSet), f.m.counter)
	f.out = append(f.out, opEnd)
}

// chargeBulk takes units for the number on top of the stack, and leaves it
// there. The shift keeps a number of 32 bits from overflowing the counter.
func (f *function) chargeBulk() {
	f.out = appendU32(append(f.out, opLocalTee), f.temp)
	f.out = appendU32(append(f.out, opGlobalGet), f.m.counter)
	f.out = appendU32(append(f.out, opLocalGet), f.temp)
	f.out = append(f.out, opI32Const, bulkShift, opI32ShrU, opI32Sub)
	f.settle()
}

func (f *function) cost(n uint32) { f.regions[len(f.regions)-1].cost += n }

// instruction copies one instruction.
func (f *function) instruction() {
	r := f.r
	start := r.pos
	op := r.byte()
	f.cost(1)
	switch {
	case op == opBlock || op == opLoop || op == opIf:
		f.blockType()
		f.open = append(f.open, op)
		if len(f.open) > MaxNesting {
			r.fail("blocks nest deeper than %d", MaxNesting)
		}
		f.copy(start)
		if op == opLoop {
			f.charge()
		}
		return
	case op == opElse:
		if f.open[len(f.open)-1] != opIf {
			r.fail("else without if")
		}
		f.open[len(f.open)-1] = opElse
	case op == opEnd:
		f.end()
	case op == opCall || op == opRefFunc:
		f.cost(callCost)
		i := r.index(f.m.funcs, "function")
		f.out = appendU32(append(f.out, op), f.m.shift(i))
		return
	case op == opMisc:
		f.misc(start)
		return
	case op == opSIMD:
		f.simd()
	default:
		f.immediates(op)
	}
	f.copy(start)
}

// copy copies what was read since start.
func (f *function) copy(start int) {
	if f.r.err == nil {
		f.out = append(f.out, f.r.data[start:f.r.pos]...)
	}
}

// end closes a block, and its region if it has one.
func (f *function) end() {
	last := len(f.open) - 1
	if f.open[last] == opLoop || last == 0 {
		g := f.regions[len(f.regions)-1]
		putPadded(f.out[g.at:g.at+paddedSize], g.cost)
		f.regions = f.regions[:len(f.regions)-1]
	}
	f.open = f.open[:last]
}

func (f *function) blockType() {
	r := f.r
	if r.more() && (r.data[r.pos] == emptyType || isValueType(r.data[r.pos])) {
		r.pos++
		return
	}
	if i := r.signed(33); r.err == nil && (i < 0 || i >= int64(len(f.m.types))) {
		r.fail("block of type %d of %d", i, len(f.m.types))
	}
}

// immediates reads what follows an instruction of one byte, and refuses those
// that are not known.
func (f *function) immediates(op byte) {
	r := f.r
	switch {
	case op <= 0x01, op == 0x0f, op == 0x1a, op == 0x1b, op >= 0x45 && op <= 0xc4, op == 0xd1:
	case op == opBr || op == opBrIf:
		r.index(len(f.open), "label")
	case op == opBrTable:
		for n := r.count(MaxFunctionBytes, "labels"); n > 0 && r.err == nil; n-- {
			r.index(len(f.open), "label")
		}
		r.index(len(f.open), "label")
	case op == opCallIndirect:
		f.cost(callCost)
		r.index(len(f.m.types), "type")
		r.index(f.m.tables, "table")
	case op == opSelectTyped:
		for n := r.count(MaxParams, "types"); n > 0; n-- {
			r.valueType()
		}
	case op >= opLocalGet && op <= opLocalTee:
		r.index(f.locals, "local")
	case op == opGlobalGet || op == opGlobalSet:
		r.index(f.m.globals, "global")
	case op == opTableGet || op == opTableSet:
		r.index(f.m.tables, "table")
	case op >= 0x28 && op <= 0x3e:
		f.memoryArgument()
	case op == opMemorySize || op == opMemoryGrow:
		f.memoryIndex()
		if op == opMemoryGrow {
			f.cost(growCost)
		}
	case op == opI32Const:
		r.signed(32)
	case op == opI64Const:
		r.signed(64)
	case op == opF32Const:
		r.bytes(4)
	case op == opF64Const:
		r.bytes(8)
	case op == opRefNull:
		r.refType()
	default:
		r.fail("%s not supported", later(op))
	}
}

// later names what an instruction that is refused belongs to.
func later(op byte) string {
	switch {
	case op >= 0x06 && op <= 0x0a || op == 0x18 || op == 0x19 || op == 0x1f:
		return "exceptions are"
	case op == 0x12 || op == 0x13 || op == 0x15:
		return "tail calls are"
	case op == 0xfe:
		return "threads are"
	case op == 0xfb || op == 0x14 || op >= 0xd3 && op <= 0xd6:
		return "typed references and garbage collection are"
	}
	const digits = "0123456789abcdef"
	return "instruction 0x" + string([]byte{digits[op>>4], digits[op&15]}) + " is"
}

func (f *function) memoryArgument() {
	// Bit 6 of the alignment would say that the index of a memory follows.
	if align := f.r.u32(); f.r.err == nil && align >= 0x40 {
		f.r.fail("several memories are not supported")
	}
	f.r.u32()
}

func (f *function) memoryIndex() {
	if b := f.r.byte(); f.r.err == nil && b != 0 {
		f.r.fail("several memories are not supported")
	}
}

// misc copies an instruction of the prefix 0xfc.
func (f *function) misc(start int) {
	r := f.r
	bulk := false
	switch sub := r.u32(); {
	case sub <= 7: // saturating conversions
	case sub == 8: // memory.init
		r.u32()
		f.memoryIndex()
		bulk = true
	case sub == 9: // data.drop
		r.u32()
	case sub == 10: // memory.copy
		f.memoryIndex()
		f.memoryIndex()
		bulk = true
	case sub == 11: // memory.fill
		f.memoryIndex()
		bulk = true
	case sub == 12: // table.init
		r.index(f.m.elements, "element segment")
		r.index(f.m.tables, "table")
		bulk = true
	case sub == 13: // elem.drop
		r.index(f.m.elements, "element segment")
	case sub == 14: // table.copy
		r.index(f.m.tables, "table")
		r.index(f.m.tables, "table")
		bulk = true
	case sub == 15: // table.grow
		r.index(f.m.tables, "table")
		f.cost(growCost)
	case sub == 16: // table.size
		r.index(f.m.tables, "table")
	case sub == 17: // table.fill
		r.index(f.m.tables, "table")
		bulk = true
	default:
		r.fail("instruction 0xfc %d is not supported", sub)
	}
	if bulk && r.err == nil {
		f.chargeBulk()
	}
	f.copy(start)
}

// simd reads what follows the prefix 0xfd.
func (f *function) simd() {
	r := f.r
	switch sub := r.u32(); {
	case sub <= 11 || sub == 92 || sub == 93: // loads and stores
		f.memoryArgument()
	case sub == simdConst || sub == 13: // v128.const, i8x16.shuffle
		r.bytes(16)
	case sub >= 21 && sub <= 34: // lanes in and out
		r.byte()
	case sub >= 84 && sub <= 91: // loads and stores of one lane
		f.memoryArgument()
		r.byte()
	case sub > 255:
		r.fail("relaxed SIMD (instruction 0xfd %d) is not supported", sub)
	}
}
