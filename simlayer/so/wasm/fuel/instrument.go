package fuel

import (
	"bytes"
	"errors"
	"fmt"
)

// The import that a rewritten module has more.
const (
	TickModule = "moult_fuel"
	TickName   = "tick"
)

// Kind says what an import or an export is.
type Kind byte

// The kinds, as the format numbers them.
const (
	Func Kind = iota
	Table
	Memory
	Global
)

func (k Kind) String() string {
	names := [...]string{"function", "table", "memory", "global"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// Import is what a module wants.
type Import struct {
	Module, Name string
	Kind         Kind
}

// Export is what a module offers.
type Export struct {
	Name string
	Kind Kind
}

// Module is a module that was rewritten.
type Module struct {
	// Wasm is the new module.
	Wasm []byte
	// Imports and Exports are those of the original, in its order.
	Imports []Import
	Exports []Export
	// Pages is what its own memory starts with, in pages of 64 KiB.
	Pages uint32
}

// ErrNotWasm is in the error for data that is no binary module at all.
var ErrNotWasm = errors.New("not a WebAssembly module")

// Sections of a module, as the format numbers them.
const (
	secCustom = iota
	secType
	secImport
	secFunction
	secTable
	secMemory
	secGlobal
	secExport
	secStart
	secElement
	secCode
	secData
	secDataCount
	secEnd
)

// order is where each section stands.
var order = [secEnd]int{
	secType: 1, secImport: 2, secFunction: 3, secTable: 4, secMemory: 5, secGlobal: 6,
	secExport: 7, secStart: 8, secElement: 9, secDataCount: 10, secCode: 11, secData: 12,
}

var header = []byte("\x00asm\x01\x00\x00\x00")

// module is a module that is being rewritten.
type module struct {
	in  [secEnd]*reader
	out [secEnd][]byte

	types     []functionType
	funcTypes []uint32 // of the functions of its own
	// importedFuncs and importedGlobals count these imports; funcs, globals,
	// tables and memories all of each, before the rewriting.
	importedFuncs, importedGlobals   int
	funcs, globals, tables, memories int
	elements, dataSegments           int
	hasDataCount                     bool
	locals                           int

	tick, counter uint32 // the new function and the new global
	result        Module
}

type functionType struct{ params, results int }

// Instrument returns wasm with a counter in it. Its error says what is wrong with
// the module, and where; wasm is not changed.
func Instrument(wasm []byte) (*Module, error) {
	if len(wasm) > MaxModule {
		return nil, fmt.Errorf("the module has %d bytes, at most %d", len(wasm), MaxModule)
	}
	if len(wasm) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrNotWasm)
	}
	if !bytes.HasPrefix(wasm, header) {
		if bytes.HasPrefix(wasm, header[:4]) && len(wasm) >= 8 {
			return nil, fmt.Errorf("%w of version 1 (a component?): its header is % x", ErrNotWasm, wasm[:8])
		}
		return nil, fmt.Errorf("%w: it starts with % x", ErrNotWasm, wasm[:min(len(wasm), 8)])
	}
	m := &module{}
	if err := m.split(&reader{data: wasm, pos: len(header)}); err != nil {
		return nil, err
	}
	for _, step := range []struct {
		section int
		name    string
		do      func(*reader)
	}{
		{secType, "types", m.typeSection}, {secImport, "imports", m.importSection},
		{secFunction, "functions", m.functionSection}, {secTable, "tables", m.tableSection},
		{secMemory, "memories", m.memorySection}, {secGlobal, "globals", m.globalSection},
		{secExport, "exports", m.exportSection}, {secStart, "start", m.startSection},
		{secElement, "elements", m.elementSection}, {secDataCount, "data count", m.dataCountSection},
		{secCode, "code", m.codeSection}, {secData, "data", m.dataSection},
	} {
		r := m.in[step.section]
		if r == nil {
			r = &reader{data: []byte{0}}
			if step.section == secStart || step.section == secDataCount {
				continue
			}
		}
		step.do(r)
		if r.err == nil && r.pos != len(r.data) {
			r.fail("%d bytes too many", len(r.data)-r.pos)
		}
		if r.err != nil {
			return nil, fmt.Errorf("section of %s: %w", step.name, r.err)
		}
	}
	m.result.Wasm = m.join(m.names())
	return &m.result, nil
}

// split cuts the module into its sections.
func (m *module) split(r *reader) error {
	last := 0
	for r.more() {
		id := r.byte()
		size := r.u32()
		if r.err == nil && id >= secEnd {
			if id == 13 {
				r.fail("exceptions are not supported")
			} else {
				r.fail("unknown section %d", id)
			}
		}
		body := r.sub(size)
		if r.err != nil {
			return r.err
		}
		if id == secCustom {
			if m.custom(body); body.err != nil {
				return fmt.Errorf("custom section: %w", body.err)
			}
			continue
		}
		if order[id] <= last {
			r.fail("section %d comes twice or out of order", id)
			return r.err
		}
		last = order[id]
		m.in[id] = body
	}
	return r.err
}

// custom keeps the section of names, if it is one, and drops all others: what
// they say of addresses is no longer true.
func (m *module) custom(r *reader) {
	if name := r.name(); r.err == nil && name == "name" {
		m.in[secCustom] = r
	}
}

// names returns the names of functions under their new indices, or nothing where
// they make no sense: they only serve messages.
func (m *module) names() []byte {
	r := m.in[secCustom]
	if r == nil {
		return nil
	}
	for r.more() {
		id := r.byte()
		part := r.sub(r.u32())
		if id != 1 {
			continue
		}
		n := part.count(MaxFunctions, "names")
		list := appendU32(nil, uint32(n))
		for range n {
			list = appendU32(list, m.shift(part.index(m.funcs, "function")))
			list = appendName(list, part.name())
		}
		if part.err != nil || part.more() {
			return nil
		}
		out := append(appendName(nil, "name"), 1)
		return append(appendU32(out, uint32(len(list))), list...)
	}
	return nil
}

// shift returns the new index of function i.
func (m *module) shift(i uint32) uint32 {
	if int64(i) >= int64(m.importedFuncs) {
		return i + 1
	}
	return i
}

// join writes the sections in their order.
func (m *module) join(names []byte) []byte {
	size := len(header) + len(names) + 16
	for _, s := range m.out {
		size += len(s) + 6
	}
	out := append(make([]byte, 0, size), header...)
	for _, id := range []int{
		secType, secImport, secFunction, secTable, secMemory, secGlobal, secExport,
		secStart, secElement, secDataCount, secCode, secData,
	} {
		if s := m.out[id]; s != nil {
			out = append(out, byte(id))
			out = append(appendU32(out, uint32(len(s))), s...)
		}
	}
	if names != nil {
		out = append(out, secCustom)
		out = append(appendU32(out, uint32(len(names))), names...)
	}
	return out
}
