package wasm

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// KV is the durable state of an object. It is safe for concurrent use.
type KV interface {
	// Get returns the value of key, and whether there is one. The value is not
	// to be changed.
	Get(key string) (value []byte, ok bool, err error)
	// List returns at most limit keys that start with prefix and come after
	// after, in the order of their bytes.
	List(prefix, after string, limit int) ([]string, error)
	// Apply carries out ops in their order, all of them or none. It keeps nothing
	// of ops, whose values are the guest's memory. When it returns
	// nil, they survive a power loss. It returns ErrConflict where a condition
	// does not hold and ErrFull where a bound would be passed.
	Apply(ops []Op) error
}

// Errors of KV that guests can deal with.
var (
	ErrConflict = errors.New("the state is not what the change expects")
	ErrFull     = errors.New("the state is full")
)

// OpKind says what an Op does. Its numbers are those of the ABI.
type OpKind byte

// The kinds of Op. Conditions are checked before anything is changed.
const (
	Delete   OpKind = 0 // key, if it is there
	Set      OpKind = 1 // key to value
	IfEqual  OpKind = 2 // only if key has value
	IfAbsent OpKind = 3 // only if there is no key
)

// Op is a change of the state, or a condition for one.
type Op struct {
	Kind  OpKind
	Key   string
	Value []byte
}

// ErrKey is in the error for a key that cannot be.
var ErrKey = errors.New("not a key")

// CheckKey says why key cannot be a key of the state.
func CheckKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: it is empty", ErrKey)
	case !utf8.ValidString(key) || strings.Contains(key, "\x00"):
		return fmt.Errorf("%w: %.40q is not UTF-8 without NUL", ErrKey, key)
	case len(FileName(key)) > MaxStateName:
		return fmt.Errorf("%w: %.40q… makes a file name of %d bytes, at most %d", ErrKey, key, len(FileName(key)), MaxStateName)
	}
	return nil
}

// FileName returns the name of the file that has the value of key: letters,
// digits, "-", "_" and all that is not ASCII stand for themselves, every other
// byte is % and two capital hexadecimal digits. So a name never starts with a dot.
func FileName(key string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(key) {
		c := key[i]
		if plain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}

func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '-' || c == '_' || c >= utf8.RuneSelf
}

// KeyOf is the reverse of FileName. It refuses what FileName does not make.
func KeyOf(name string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] != '%' {
			b.WriteByte(name[i])
			continue
		}
		if i+2 >= len(name) {
			return "", fmt.Errorf("%q is not the name of a file of an object's state", name)
		}
		b.WriteByte(unhex(name[i+1])<<4 | unhex(name[i+2]))
		i += 2
	}
	if key := b.String(); FileName(key) == name && CheckKey(key) == nil {
		return key, nil
	}
	return "", fmt.Errorf("%q is not the name of a file of an object's state", name)
}

func unhex(c byte) byte {
	if c >= 'A' && c <= 'F' {
		return c - 'A' + 10
	}
	return (c - '0') & 15
}
