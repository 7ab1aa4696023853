package fuel

// Types of values.
const (
	typeI32       = 0x7f
	typeV128      = 0x7b
	typeFuncref   = 0x70
	typeExternref = 0x6f
	typeFunction  = 0x60
)

func isValueType(b byte) bool {
	return b >= typeV128 && b <= typeI32 || b == typeFuncref || b == typeExternref
}

func (r *reader) valueType() byte {
	b := r.byte()
	if r.err == nil && !isValueType(b) {
		r.fail("type %#x is not supported", b)
	}
	return b
}

func (r *reader) refType() byte {
	b := r.byte()
	if r.err == nil && b != typeFuncref && b != typeExternref {
		r.fail("type %#x is not supported as a reference", b)
	}
	return b
}

// typeSection adds the type of tick.
func (m *module) typeSection(r *reader) {
	n := r.count(MaxTypes, "types")
	start := r.pos
	for range n {
		if form := r.byte(); r.err == nil && form != typeFunction {
			r.fail("type form %#x is not supported: only functions are", form)
		}
		var t functionType
		for _, list := range []*int{&t.params, &t.results} {
			*list = r.count(MaxParams, "parameters or results")
			for range *list {
				r.valueType()
			}
		}
		if r.err != nil {
			return
		}
		m.types = append(m.types, t)
	}
	out := append(appendU32(nil, uint32(n)+1), r.data[start:r.pos]...)
	m.out[secType] = append(out, typeFunction, 1, typeI32, 1, typeI32)
}

// importSection adds tick, after all other imports.
func (m *module) importSection(r *reader) {
	n := r.count(MaxImports, "imports")
	start := r.pos
	for range n {
		i := Import{Module: r.name(), Name: r.name(), Kind: Kind(r.byte())}
		switch i.Kind {
		case Func:
			r.index(len(m.types), "type")
			m.importedFuncs++
		case Table:
			r.refType()
			r.limits(MaxTable)
			m.tables++
		case Memory:
			r.limits(1 << 16)
			m.memories++
		case Global:
			r.globalType()
			m.importedGlobals++
		default:
			r.fail("an import of %v is not supported", i.Kind)
		}
		if i.Module == TickModule {
			r.fail("the import %s.%s is not for guests", i.Module, i.Name)
		}
		if r.err != nil {
			return
		}
		m.result.Imports = append(m.result.Imports, i)
	}
	out := append(appendU32(nil, uint32(n)+1), r.data[start:r.pos]...)
	out = appendName(appendName(out, TickModule), TickName)
	out = append(out, byte(Func))
	m.out[secImport] = appendU32(out, uint32(len(m.types)))
	m.tick = uint32(m.importedFuncs)
	m.funcs, m.globals = m.importedFuncs, m.importedGlobals
}

func (r *reader) globalType() {
	r.valueType()
	if mut := r.byte(); r.err == nil && mut > 1 {
		r.fail("mutability %d", mut)
	}
}

// limits reads the bounds of a table or a memory; max is at most most.
func (r *reader) limits(most uint32) (low, high uint32) {
	flag := r.byte()
	if r.err == nil && flag > 1 {
		r.fail("limits of kind %#x are not supported (shared or 64-bit memory?)", flag)
	}
	low, high = r.u32(), most
	if flag == 1 {
		high = r.u32()
	}
	switch {
	case r.err != nil:
	case low > most:
		r.fail("%d to start with, at most %d", low, most)
	case high < low:
		r.fail("at least %d and at most %d", low, high)
	}
	return low, min(high, most)
}

func (m *module) functionSection(r *reader) {
	n := r.count(MaxFunctions, "functions")
	start := r.pos
	m.funcTypes = make([]uint32, 0, n)
	for range n {
		m.funcTypes = append(m.funcTypes, r.index(len(m.types), "type"))
	}
	if r.err != nil {
		return
	}
	m.funcs += n
	if n > 0 {
		m.out[secFunction] = append(appendU32(nil, uint32(n)), r.data[start:r.pos]...)
	}
}

// tableSection bounds tables: they lie outside of what bounds memories.
func (m *module) tableSection(r *reader) {
	n := r.count(MaxTables, "tables")
	out := appendU32(nil, uint32(n))
	for range n {
		if r.more() && r.data[r.pos] == 0x40 {
			r.fail("tables with an initial value are not supported")
		}
		out = append(out, r.refType(), 1)
		low, high := r.limits(MaxTable)
		out = appendU32(appendU32(out, low), high)
	}
	m.tables += n
	if n > 0 {
		m.out[secTable] = out
	}
}

func (m *module) memorySection(r *reader) {
	n := r.count(1, "memories")
	for range n {
		m.result.Pages, _ = r.limits(1 << 16)
	}
	m.memories += n
	if m.memories > 1 {
		r.fail("several memories are not supported")
	}
	if n > 0 {
		m.out[secMemory] = r.data
	}
}

// globalSection adds the counter, after all other globals.
func (m *module) globalSection(r *reader) {
	n := r.count(MaxGlobals, "globals")
	out := appendU32(nil, uint32(n)+1)
	for i := range n {
		start := r.pos
		r.globalType()
		out = append(out, r.data[min(start, r.pos):r.pos]...)
		out = m.constant(r, out, m.importedGlobals+i)
		if r.err != nil {
			return
		}
	}
	m.counter = uint32(m.importedGlobals + n)
	m.globals += n
	m.out[secGlobal] = append(out, typeI32, 1, 0x41, 0, 0x0b)
}

// constant copies a constant expression that may name the first globals globals.
func (m *module) constant(r *reader, out []byte, globals int) []byte {
	for r.err == nil {
		start := r.pos
		switch op := r.byte(); op {
		case opEnd:
			return append(out, opEnd)
		case opI32Const:
			r.signed(32)
		case opI64Const:
			r.signed(64)
		case opF32Const:
			r.bytes(4)
		case opF64Const:
			r.bytes(8)
		case opGlobalGet:
			r.index(globals, "global")
		case opRefNull:
			r.refType()
		case opRefFunc:
			out = append(out, opRefFunc)
			out = appendU32(out, m.shift(r.index(m.funcs, "function")))
			continue
		case opSIMD:
			if sub := r.u32(); r.err == nil && sub != simdConst {
				r.fail("SIMD instruction %d in a constant expression", sub)
			}
			r.bytes(16)
		default:
			r.fail("instruction %#x is not supported in a constant expression", op)
		}
		out = append(out, r.data[start:r.pos]...)
	}
	return out
}

func (m *module) exportSection(r *reader) {
	n := r.count(MaxExports, "exports")
	out := appendU32(nil, uint32(n))
	spaces := [...]int{Func: m.funcs, Table: m.tables, Memory: m.memories, Global: m.globals}
	for range n {
		e := Export{Name: r.name(), Kind: Kind(r.byte())}
		if r.err == nil && int(e.Kind) >= len(spaces) {
			r.fail("an export of %v is not supported", e.Kind)
		}
		if r.err != nil {
			return
		}
		i := r.index(spaces[e.Kind], e.Kind.String())
		if e.Kind == Func {
			i = m.shift(i)
		}
		out = appendU32(append(appendName(out, e.Name), byte(e.Kind)), i)
		m.result.Exports = append(m.result.Exports, e)
	}
	if n > 0 {
		m.out[secExport] = out
	}
}

func (m *module) startSection(r *reader) {
	m.out[secStart] = appendU32(nil, m.shift(r.index(m.funcs, "function")))
}

// elementSection copies the segments of tables. The three lowest bits of a
// segment's flag say: it is passive or declarative, it names its table or is
// declarative, its entries are expressions.
func (m *module) elementSection(r *reader) {
	n := r.count(MaxFunctions, "element segments")
	out := appendU32(nil, uint32(n))
	for range n {
		flag := r.u32()
		if r.err == nil && flag > 7 {
			r.fail("element segment of kind %d is not supported", flag)
		}
		out = appendU32(out, flag)
		if flag&1 == 0 {
			if flag&2 != 0 {
				out = appendU32(out, r.index(m.tables, "table"))
			}
			out = m.constant(r, out, m.globals)
		}
		switch {
		case flag&3 != 0 && flag&4 != 0:
			out = append(out, r.refType())
		case flag&3 != 0:
			kind := r.byte()
			if r.err == nil && kind != 0 {
				r.fail("element kind %d is not supported", kind)
			}
			out = append(out, kind)
		}
		out = m.entries(r, out, flag&4 != 0)
		if r.err != nil {
			return
		}
	}
	m.elements = n
	if n > 0 {
		m.out[secElement] = out
	}
}

// entries copies the entries of a segment: indices of functions or expressions.
func (m *module) entries(r *reader, out []byte, expressions bool) []byte {
	n := r.count(10*MaxTable, "entries")
	out = appendU32(out, uint32(n))
	for range n {
		if expressions {
			out = m.constant(r, out, m.globals)
		} else {
			out = appendU32(out, m.shift(r.index(m.funcs, "function")))
		}
		if r.err != nil {
			return out
		}
	}
	return out
}

func (m *module) dataCountSection(r *reader) {
	m.dataSegments, m.hasDataCount = int(r.u32()), true
	m.out[secDataCount] = r.data
}

func (m *module) dataSection(r *reader) {
	n := r.count(100_000, "data segments")
	if m.hasDataCount && n != m.dataSegments {
		r.fail("%d data segments, but the module says %d", n, m.dataSegments)
	}
	for range n {
		flag := r.u32()
		if r.err == nil && flag > 2 {
			r.fail("data segment of kind %d is not supported", flag)
		}
		if flag == 2 {
			r.index(m.memories, "memory")
		}
		if flag != 1 {
			m.constant(r, nil, m.globals)
		}
		r.sub(r.u32())
		if r.err != nil {
			return
		}
	}
	if n > 0 {
		// Offsets name no functions, so that nothing changes.
		m.out[secData] = r.data
	}
}
