package fuel

import (
	"fmt"
	"unicode/utf8"
)

// reader reads a module. Its first error stays, and then all that it reads is
// zero, so that callers may look at err once per step.
type reader struct {
	data []byte
	pos  int
	base int // of data in the module, for messages
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("offset %#x: %s", r.base+r.pos, fmt.Sprintf(format, args...))
		r.pos = len(r.data)
	}
}

func (r *reader) more() bool { return r.err == nil && r.pos < len(r.data) }

func (r *reader) byte() byte {
	if r.pos >= len(r.data) {
		r.fail("the module ends too early")
		return 0
	}
	b := r.data[r.pos]
	r.pos++
	return b
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.data)-r.pos {
		r.fail("the module ends too early")
		return nil
	}
	b := r.data[r.pos : r.pos+n]
	r.pos += n
	return b
}

// u32 reads an unsigned LEB128 number of 32 bits.
func (r *reader) u32() uint32 {
	var v uint32
	for shift := 0; shift < 35; shift += 7 {
		b := r.byte()
		if shift == 28 && b > 0x0f {
			break
		}
		v |= uint32(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	r.fail("a number of more than 32 bits")
	return 0
}

// signed skips a signed LEB128 number of at most bits bits and returns it.
func (r *reader) signed(bits int) int64 {
	var v int64
	for shift := 0; shift < bits; shift += 7 {
		b := r.byte()
		v |= int64(b&0x7f) << shift
		if b < 0x80 {
			if shift+7 < 64 && b&0x40 != 0 {
				v |= -1 << (shift + 7)
			}
			return v
		}
	}
	r.fail("a number of more than %d bits", bits)
	return 0
}

// count reads the length of a vector of at most limit things.
func (r *reader) count(limit int, what string) int {
	n := r.u32()
	if n > uint32(limit) {
		r.fail("%d %s, at most %d", n, what, limit)
		return 0
	}
	// Each takes a byte at least, so that a short module cannot claim many.
	if int(n) > len(r.data)-r.pos {
		r.fail("%d %s in %d bytes", n, what, len(r.data)-r.pos)
		return 0
	}
	return int(n)
}

// index reads an index into a space of n things.
func (r *reader) index(n int, what string) uint32 {
	i := r.u32()
	if r.err == nil && int64(i) >= int64(n) {
		r.fail("%s %d of %d", what, i, n)
	}
	return i
}

func (r *reader) name() string {
	n := r.count(MaxName, "bytes of a name")
	s := string(r.bytes(n))
	if !utf8.ValidString(s) {
		r.fail("a name that is not UTF-8")
	}
	return s
}

// sub returns a reader of the next n bytes.
func (r *reader) sub(n uint32) *reader {
	base := r.base + r.pos
	if int64(n) > int64(len(r.data)-r.pos) {
		r.fail("a part of %d bytes in %d", n, len(r.data)-r.pos)
	}
	if r.err != nil {
		return &reader{err: r.err}
	}
	return &reader{data: r.bytes(int(n)), base: base}
}

func appendU32(b []byte, v uint32) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func appendName(b []byte, s string) []byte {
	return append(appendU32(b, uint32(len(s))), s...)
}

// paddedSize is the size of a number that is filled in later.
const paddedSize = 5

// putPadded writes v, which is not negative, as a signed number of five bytes.
func putPadded(b []byte, v uint32) {
	for i := range paddedSize - 1 {
		b[i] = byte(v>>(7*i))&0x7f | 0x80
	}
	b[paddedSize-1] = byte(v>>28) & 0x07
}
