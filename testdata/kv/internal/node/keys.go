package node

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ErrKey is wrapped by what CheckKey returns.
var ErrKey = errors.New("bad key")

// CheckKey says what is wrong with a key. "." and ".." are refused because no
// URL path can carry them as they are.
func CheckKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: it is empty", ErrKey)
	case len(key) > MaxKey:
		return fmt.Errorf("%w: %d bytes, at most %d", ErrKey, len(key), MaxKey)
	case !utf8.ValidString(key):
		return fmt.Errorf("%w %q: it is not UTF-8", ErrKey, key)
	case key == "." || key == "..":
		return fmt.Errorf("%w %q: a path cannot carry it", ErrKey, key)
	}
	return nil
}

// EscapeKey returns the file name of a key: every byte other than a-z 0-9 _ -
// becomes %XX. Capitals do too, because some file systems do not tell them
// from small letters. No escaped key is longer than 3*MaxKey bytes.
func EscapeKey(key string) string {
	var b strings.Builder
	for i := range len(key) {
		if c := key[i]; 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// UnescapeKey is the inverse of EscapeKey; it takes nothing that EscapeKey
// does not make.
func UnescapeKey(name string) (string, error) {
	var key []byte
	for i := 0; i < len(name); i++ {
		if name[i] != '%' {
			key = append(key, name[i])
			continue
		}
		if i+2 >= len(name) {
			return "", fmt.Errorf("%q ends within an escape", name)
		}
		c, err := strconv.ParseUint(name[i+1:i+3], 16, 8)
		if err != nil {
			return "", fmt.Errorf("%q: %w", name, err)
		}
		key = append(key, byte(c))
		i += 2
	}
	if err := CheckKey(string(key)); err != nil {
		return "", fmt.Errorf("%q: %w", name, err)
	}
	if EscapeKey(string(key)) != name {
		return "", fmt.Errorf("%q is not how a key is escaped", name)
	}
	return string(key), nil
}
