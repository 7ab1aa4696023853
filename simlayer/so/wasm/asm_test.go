package wasm

// A small assembler, for guests that no compiler would make.

type asm struct {
	types, imports, funcs, exports, codes [][]byte
	imported                              int
	pages                                 []byte // limits of the memory
	data                                  string // what the memory starts with
}

func newAsm() *asm { return &asm{pages: []byte{0, 1}} }

func leb(v uint32) []byte {
	var b []byte
	for ; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}

// i32 is i32.const.
func i32(v int32) []byte {
	b := []byte{0x41}
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func str(s string) []byte { return append(leb(uint32(len(s))), s...) }

func cat(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func valtypes(s string) []byte {
	b := leb(uint32(len(s)))
	for _, c := range s {
		b = append(b, map[rune]byte{'i': 0x7f, 'I': 0x7e}[c])
	}
	return b
}

func (a *asm) typ(params, results string) []byte {
	a.types = append(a.types, cat([]byte{0x60}, valtypes(params), valtypes(results)))
	return leb(uint32(len(a.types) - 1))
}

// imp imports a function and returns its index. Imports come first.
func (a *asm) imp(module, name, params, results string) uint32 {
	a.imports = append(a.imports, cat(str(module), str(name), []byte{0}, a.typ(params, results)))
	a.imported++
	return uint32(a.imported - 1)
}

// fn adds a function with n locals of type i32 and returns its index.
func (a *asm) fn(params, results string, locals int, code ...[]byte) uint32 {
	a.funcs = append(a.funcs, a.typ(params, results))
	body := cat([]byte{1}, leb(uint32(locals)), []byte{0x7f}, cat(code...), []byte{0x0b})
	a.codes = append(a.codes, cat(leb(uint32(len(body))), body))
	return uint32(a.imported + len(a.funcs) - 1)
}

func (a *asm) export(name string, kind byte, i uint32) *asm {
	a.exports = append(a.exports, cat(str(name), []byte{kind}, leb(i)))
	return a
}

// handler exports what a handler must, with request as the body of its first
// function.
func (a *asm) handler(request ...[]byte) *asm {
	a.export("memory", 2, 0)
	a.export("handle_request", 0, a.fn("", "I", 2, request...))
	return a.export("handle_response", 0, a.fn("ii", "", 0))
}

func (a *asm) bytes() []byte {
	out := []byte("\x00asm\x01\x00\x00\x00")
	section := func(id byte, parts [][]byte) {
		if len(parts) > 0 {
			body := cat(leb(uint32(len(parts))), cat(parts...))
			out = append(append(append(out, id), leb(uint32(len(body)))...), body...)
		}
	}
	section(1, a.types)
	section(2, a.imports)
	section(3, a.funcs)
	if a.pages != nil {
		section(5, [][]byte{a.pages})
	}
	section(7, a.exports)
	section(10, a.codes)
	if a.data != "" {
		section(11, [][]byte{cat([]byte{0}, i32(0), []byte{0x0b}, str(a.data))})
	}
	return out
}

// Instructions.
func callF(i uint32) []byte      { return cat([]byte{0x10}, leb(i)) }
func get(i uint32) []byte        { return cat([]byte{0x20}, leb(i)) }
func i64(v byte) []byte          { return []byte{0x42, v & 0x3f} }
func loop(code ...[]byte) []byte { return cat([]byte{0x03, 0x40}, cat(code...), []byte{0x0b}) }

var (
	br0         = []byte{0x0c, 0}
	drop        = []byte{0x1a}
	unreachable = []byte{0x00}
	memoryGrow  = []byte{0x40, 0}
	memoryFill  = []byte{0xfc, 11, 0}
)
