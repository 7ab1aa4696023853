package jq

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"unicode/utf8"
)

// errLarge is for a value that is too large to print. gojq is not asked.
var errLarge = fmt.Errorf("its value is over %d bytes", MaxBytes)

// errNotUTF8 is for what JSON cannot hold. gojq would put another character there.
var errNotUTF8 = errors.New("its value has text that is not UTF-8")

// measure refuses values that are too deep, too large or too strange to print. It must come
// before printing: a program can make a small value that shares its parts and
// prints as more than the memory holds.
func measure(v any, depth int, left *int) error {
	if depth == 0 {
		return fmt.Errorf("its value is more than %d levels deep", maxDepth)
	}
	*left -= 1
	switch v := v.(type) {
	case string:
		if !utf8.ValidString(v) {
			return errNotUTF8
		}
		*left -= len(v) + 2
	case json.Number:
		*left -= len(v)
	case *big.Int:
		*left -= v.BitLen() / 4
	case []any:
		for _, item := range v {
			if err := measure(item, depth-1, left); err != nil {
				return err
			}
		}
	case map[string]any:
		for name, item := range v {
			if !utf8.ValidString(name) {
				return errNotUTF8
			}
			*left -= len(name) + 3
			if err := measure(item, depth-1, left); err != nil {
				return err
			}
		}
	}
	if *left < 0 {
		return errLarge
	}
	return nil
}

// Decode reads one JSON value, or null from nothing. What Go's decoder would
// silently replace is an error: a body must not change on its way.
func Decode(data []byte) (any, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	if !utf8.Valid(data) {
		return nil, errors.New("it is not UTF-8")
	}
	if loneSurrogate(data) {
		return nil, errors.New(`it has half a surrogate pair (\ud800 to \udfff)`)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON value")
	}
	if len(data) > maxNumberBytes && longNumber(v) {
		return nil, fmt.Errorf("it has a number of more than %d bytes", maxNumberBytes)
	}
	return v, nil
}

// longNumber reports whether v has a number that would take long to compute with.
func longNumber(v any) bool {
	switch v := v.(type) {
	case json.Number:
		return len(v) > maxNumberBytes
	case []any:
		return slices.ContainsFunc(v, longNumber)
	case map[string]any:
		for _, item := range v {
			if longNumber(item) {
				return true
			}
		}
	}
	return false
}

// loneSurrogate reports whether JSON text escapes half a surrogate pair.
func loneSurrogate(data []byte) bool {
	for i := 0; i+1 < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		i++ // whatever is escaped is no start of an escape itself
		switch unit := escapedUnit(data[i-1:]); {
		case unit >= 0xDC00 && unit <= 0xDFFF:
			return true
		case unit >= 0xD800 && unit <= 0xDBFF:
			low := escapedUnit(data[min(i+5, len(data)):])
			if low < 0xDC00 || low > 0xDFFF {
				return true
			}
			i += 6
		}
	}
	return false
}

// escapedUnit returns the UTF-16 unit of the \uXXXX that data starts with, or -1.
func escapedUnit(data []byte) int {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return -1
	}
	unit, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return int(unit)
}
