package so

import (
	"bytes"
	"unicode/utf8"

	"github.com/itchyny/gojq"
)

// document is a JSON text that was checked once and is then read where it lies.
// It is what bounded expressions work on. No object in it has a name twice, and
// names are written in one way only, so that they compare as bytes.
type document struct {
	raw     []byte   // one JSON value without space around it
	members []member // of raw, where it is an object
}

// member is a name of an object, with its quotes, and its value.
type member struct{ name, value []byte }

// scanDocument checks a body. For what it does not take, which is more than what
// is no JSON, ok is false: ask parseJSON. An empty body is null.
func scanDocument(data []byte) (d *document, ok bool) {
	s := scanner{data: data}
	if s.space(0) == len(data) {
		return &document{raw: []byte("null")}, true
	}
	return s.document()
}

// normalDocument makes a document out of a value that parseJSON returned, or nil
// where it is too deep.
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
	names  [][]byte // of the objects that are open
	top    []member
}

func (s *scanner) document() (*document, bool) {
	s.names = make([][]byte, 0, fewNames)
	s.top = make([]member, 0, 16)
	start := s.space(0)
	if start == len(s.data) || !utf8.Valid(s.data) {
		return nil, false
	}
	end := s.value(start, 0)
	if end < 0 || s.space(end) != len(s.data) {
		return nil, false
	}
	if bytes.Contains(s.data, []byte(`\u`)) && loneSurrogate(s.data) {
		return nil, false
	}
	return &document{raw: s.data[start:end], members: s.top}, true
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
	mine := len(s.names)
	var many map[string]bool
	i = s.space(i + 1)
	if i < len(s.data) && s.data[i] == '}' {
		return i + 1
	}
	for {
		if i >= len(s.data) || s.data[i] != '"' {
			return -1
		}
		end, plain := s.text(i)
		if end < 0 || !plain && !s.normal {
			return -1
		}
		name := s.data[i:end]
		var fresh bool
		if fresh, many = s.fresh(name, mine, many); !fresh {
			return -1
		}
		if i = s.space(end); i == len(s.data) || s.data[i] != ':' {
			return -1
		}
		start := s.space(i + 1)
		if i = s.value(start, depth+1); i < 0 {
			return -1
		}
		if depth == 0 {
			s.top = append(s.top, member{name, s.data[start:i]})
		}
		if i = s.space(i); i == len(s.data) {
			return -1
		}
		switch s.data[i] {
		case '}':
			s.names = s.names[:mine]
			return i + 1
		case ',':
			i = s.space(i + 1)
		default:
			return -1
		}
	}
}

// fresh notes a name of the object whose names begin at mine, and reports whether
// it is new there. Objects with many names have them in a map.
func (s *scanner) fresh(name []byte, mine int, many map[string]bool) (bool, map[string]bool) {
	if many != nil {
		if many[string(name)] {
			return false, many
		}
		many[string(name)] = true
		return true, many
	}
	for _, other := range s.names[mine:] {
		if bytes.Equal(other, name) {
			return false, nil
		}
	}
	s.names = append(s.names, name)
	if len(s.names)-mine == fewNames {
		many = make(map[string]bool, 2*fewNames)
		for _, other := range s.names[mine:] {
			many[string(other)] = true
		}
	}
	return true, many
}

// inText says which bytes stand for themselves in a string and need no look.
var inText = func() (plain [256]bool) {
	for c := range plain {
		plain[c] = c >= 0x20 && c != '"' && c != '\\' && c != 0x7f
	}
	return plain
}()

// text returns where the string at i ends, or -1. It is plain if it has no
// escape, nor a character that is sometimes written as one.
func (s *scanner) text(i int) (end int, plain bool) {
	plain = true
	for i++; i < len(s.data); {
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

// eachMember calls f for the members of a checked object until it returns false.
func eachMember(raw []byte, f func(member) bool) {
	s := scanner{data: raw}
	i := s.space(1)
	for raw[i] != '}' {
		if raw[i] == ',' {
			i = s.space(i + 1)
		}
		end := skipText(raw, i)
		name := raw[i:end]
		start := s.space(s.space(end) + 1)
		end = skip(raw, start)
		if !f(member{name, raw[start:end]}) {
			return
		}
		i = s.space(end)
	}
}

// eachItem calls f for the items of a checked array until it returns false.
func eachItem(raw []byte, f func([]byte) bool) {
	s := scanner{data: raw}
	i := s.space(1)
	for raw[i] != ']' {
		if raw[i] == ',' {
			i = s.space(i + 1)
		}
		end := skip(raw, i)
		if !f(raw[i:end]) {
			return
		}
		i = s.space(end)
	}
}
