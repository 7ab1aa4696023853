package jq

import (
	"bytes"
	"encoding/binary"
	"iter"
	"math/bits"
	"unicode/utf8"

	"github.com/itchyny/gojq"
)

// scan checks a text. For what it does not take, which is more than what is no JSON,
// ok is false: ask Decode. An empty text is null.
func scan(data []byte, memory *Memory) (d *document, ok bool) {
	s := scanner{data: data, memory: memory}
	if s.space(0) == len(data) {
		return memory.document([]byte("null"), nil), true
	}
	return s.document()
}

// normalDocument makes a document out of a value of gojq's, or nil where it is too
// deep.
func normalDocument(v any) *document {
	data, err := gojq.Marshal(v)
	if err != nil {
		return nil
	}
	s := scanner{data: data, normal: true}
	d, _ := s.document()
	return d
}

// scanner goes over JSON text once.
type scanner struct {
	data []byte
	// normal: the text is gojq's own, which escapes names in one way.
	normal bool
	memory *Memory
	top    []member
}

func (s *scanner) document() (*document, bool) {
	start := s.space(0)
	if start == len(s.data) || len(s.data) > maxScanned || !utf8.Valid(s.data) {
		return nil, false
	}
	if s.memory == nil {
		s.memory = &Memory{}
	}
	end := s.value(start, 0)
	s.memory.names, s.memory.large.slots = s.memory.names[:0], s.memory.large.slots[:0] // where it broke off
	if end < 0 || s.space(end) != len(s.data) {
		return nil, false
	}
	if bytes.Contains(s.data, []byte(`\u`)) && loneSurrogate(s.data) {
		return nil, false
	}
	return s.memory.document(s.data[start:end], s.top), true
}

// space returns where the white space at i ends.
func (s *scanner) space(i int) int {
	for i < len(s.data) {
		switch s.data[i] {
		case ' ', '\t', '\r', '\n':
			i++
		default:
			return i
		}
	}
	return i
}

// value returns where the value at i ends, or -1.
func (s *scanner) value(i, depth int) int {
	if i >= len(s.data) || depth > maxScanDepth {
		return -1
	}
	switch s.data[i] {
	case '{':
		return s.object(i, depth)
	case '[':
		return s.array(i, depth)
	case '"':
		end, _ := s.text(i)
		return end
	case 't':
		return s.word(i, "true")
	case 'f':
		return s.word(i, "false")
	case 'n':
		return s.word(i, "null")
	default:
		return s.number(i)
	}
}

func (s *scanner) word(i int, word string) int {
	if len(s.data)-i >= len(word) && string(s.data[i:i+len(word)]) == word {
		return i + len(word)
	}
	return -1
}

func (s *scanner) array(i, depth int) int {
	i = s.space(i + 1)
	if i < len(s.data) && s.data[i] == ']' {
		return i + 1
	}
	for {
		if i = s.value(i, depth+1); i < 0 {
			return -1
		}
		if i = s.space(i); i == len(s.data) {
			return -1
		}
		switch s.data[i] {
		case ']':
			return i + 1
		case ',':
			i = s.space(i + 1)
		default:
			return -1
		}
	}
}

func (s *scanner) object(i, depth int) int {
	names := nameList{first: len(s.memory.names)}
	i = s.space(i + 1)
	if i < len(s.data) && s.data[i] == '}' {
		return i + 1
	}
	for {
		if i >= len(s.data) || s.data[i] != '"' {
			return -1
		}
		end, plain := s.text(i)
		if end < 0 || !plain && !s.normal || !s.fresh(&names, i, end) {
			return -1
		}
		name := s.data[i:end]
		if i = s.space(end); i == len(s.data) || s.data[i] != ':' {
			return -1
		}
		start := s.space(i + 1)
		if i = s.value(start, depth+1); i < 0 {
			return -1
		}
		if depth == 0 {
			s.addTop(member{name, s.data[start:i]})
		}
		if i = s.space(i); i == len(s.data) {
			return -1
		}
		switch s.data[i] {
		case '}':
			s.memory.names = s.memory.names[:names.first]
			s.memory.large.close(names.many)
			return i + 1
		case ',':
			i = s.space(i + 1)
		default:
			return -1
		}
	}
}

// addTop adds a member of the text's own object.
func (s *scanner) addTop(m member) {
	if len(s.top) == cap(s.top) {
		longer := s.memory.take(max(32, 2*len(s.top)))
		s.top = append(longer, s.top...)
	}
	s.top = append(s.top, m)
}

// nameList is the names of an open object: some from first on in the scanner's
// list, or many of them in a set.
type nameList struct {
	first int
	many  nameSet
}

// fresh notes the name at [start, end) of the object whose names are in list, and
// reports whether it is new there.
func (s *scanner) fresh(list *nameList, start, end int) bool {
	if list.many.size > 0 {
		return s.memory.large.add(&list.many, s.data, span{uint32(start), uint32(end)})
	}
	name, few := s.data[start:end], s.memory.names[list.first:]
	for _, other := range few {
		if bytes.Equal(s.data[other.start:other.end], name) {
			return false
		}
	}
	s.memory.names = append(s.memory.names, span{uint32(start), uint32(end)})
	if len(few)+1 < fewScanned {
		return true
	}
	list.many = s.memory.large.open()
	for _, one := range s.memory.names[list.first:] {
		s.memory.large.add(&list.many, s.data, one)
	}
	return true
}

// inText says which bytes stand for themselves in a string and need no look.
var inText = func() (plain [256]bool) {
	for c := range plain {
		plain[c] = c >= 0x20 && c != '"' && c != '\\' && c != 0x7f
	}
	return plain
}()

// notPlain looks at eight bytes at once. The lowest bit that is set is in the first
// byte for which inText is false; 0: there is none.
func notPlain(w uint64) uint64 {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	zero := func(w uint64) uint64 { return (w - ones) &^ w & tops } // false above a true one
	control := (w - ones*0x20) &^ w & tops
	return control | zero(w^ones*'"') | zero(w^ones*'\\') | zero(w^ones*0x7f)
}

// text returns where the string at i ends, or -1. It is plain if it has no
// escape, nor a character that is sometimes written as one.
func (s *scanner) text(i int) (end int, plain bool) {
	plain = true
	for i++; i < len(s.data); {
		if len(s.data)-i >= 8 {
			look := notPlain(binary.LittleEndian.Uint64(s.data[i:]))
			if look == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(look) / 8
		}
		c := s.data[i]
		switch {
		case inText[c]:
			i++
		case c == '"':
			return i + 1, plain
		case c == 0x7f:
			plain = false
			i++
		case c != '\\' || i+1 == len(s.data):
			return -1, false
		default:
			plain = false
			switch s.data[i+1] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				i += 2
			case 'u':
				if escapedUnit(s.data[i:]) < 0 {
					return -1, false
				}
				i += 6
			default:
				return -1, false
			}
		}
	}
	return -1, false
}

// number returns where the number at i ends, or -1.
func (s *scanner) number(i int) int {
	start := i
	if i < len(s.data) && s.data[i] == '-' {
		i++
	}
	if i < len(s.data) && s.data[i] == '0' {
		i++
	} else if i = s.digits(i); i < 0 {
		return -1
	}
	if i < len(s.data) && s.data[i] == '.' {
		if i = s.digits(i + 1); i < 0 {
			return -1
		}
	}
	if i < len(s.data) && (s.data[i] == 'e' || s.data[i] == 'E') {
		i++
		if i < len(s.data) && (s.data[i] == '+' || s.data[i] == '-') {
			i++
		}
		if i = s.digits(i); i < 0 {
			return -1
		}
	}
	if i-start > maxNumberBytes {
		return -1
	}
	return i
}

// digits returns where at least one digit at i ends, or -1.
func (s *scanner) digits(i int) int {
	start := i
	for i < len(s.data) && s.data[i] >= '0' && s.data[i] <= '9' {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// skip returns where the value at i of a checked text ends.
func skip(data []byte, i int) int {
	switch data[i] {
	case '"':
		return skipText(data, i)
	case '{', '[':
		depth := 0
		for ; i < len(data); i++ {
			switch data[i] {
			case '"':
				i = skipText(data, i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
		return i
	}
	for i < len(data) {
		switch data[i] {
		case ',', '}', ']', ':', ' ', '\t', '\r', '\n':
			return i
		}
		i++
	}
	return i
}

// skipText returns where the string at i of a checked text ends.
func skipText(data []byte, i int) int {
	for start := i + 1; ; {
		end := start + bytes.IndexByte(data[start:], '"')
		escapes := 0
		for data[end-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return end + 1
		}
		start = end + 1
	}
}

// elements ranges over the members of a checked object, or over the items of an array,
// which have no names.
func elements(raw []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		s := scanner{data: raw}
		for i := s.space(1); raw[i] != '}' && raw[i] != ']'; i = s.space(i) {
			if raw[i] == ',' {
				i = s.space(i + 1)
			}
			var name []byte
			if raw[0] == '{' {
				end := skipText(raw, i)
				name = raw[i:end]
				i = s.space(s.space(end) + 1)
			}
			end := skip(raw, i)
			if !yield(name, raw[i:end]) {
				return
			}
			i = end
		}
	}
}
