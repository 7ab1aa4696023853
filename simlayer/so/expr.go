package so

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"strconv"
	"unicode/utf8"

	"github.com/itchyny/gojq"
)

// expr is a compiled jq program with what it reads.
type expr struct {
	code *gojq.Code
	// body: reads the body of the message that it is about. callerBody: is about
	// a response and reads the body of the request.
	body, callerBody bool
}

var (
	bodyWord    = regexp.MustCompile(`\bbody\b`)
	requestBody = regexp.MustCompile(`\brequest\.body\b`)
	// requestPart is a mention of the request that leaves its body alone.
	requestPart = regexp.MustCompile(`\brequest\.(method|path|params|query|query_all|headers)\b`)
	requestWord = regexp.MustCompile(`\brequest\b`)
)

// compile reads a jq program over a request, or over a response.
//
// Which bodies it reads is told from its text alone, so that the rule in the
// package's documentation is one that an author can apply with the eye. Where it
// errs, a body is parsed that was not needed.
func compile(src string, overResponse bool) (*expr, error) {
	if len(src) > MaxExpressionBytes {
		return nil, fmt.Errorf("%d bytes, at most %d", len(src), MaxExpressionBytes)
	}
	query, err := gojq.Parse(src)
	if err != nil {
		return nil, err
	}
	code, err := gojq.Compile(query)
	if err != nil {
		return nil, err
	}
	e := &expr{code: code}
	bodies := len(bodyWord.FindAllString(src, -1))
	if !overResponse {
		e.body = bodies > 0
		return e, nil
	}
	e.body = bodies > len(requestBody.FindAllString(src, -1))
	whole := len(requestWord.FindAllString(src, -1)) > len(requestPart.FindAllString(src, -1))
	e.callerBody = bodies > 0 && whole
	return e, nil
}

// errMany is for a program that yields more values than its place has room for.
var errMany = errors.New("it yields more than one value")

// run returns the program's only value; ok is false when it yields none.
func (e *expr) run(ctx context.Context, input any) (v any, ok bool, err error) {
	defer func() {
		// A fault in the interpreter must fail this call only.
		if p := recover(); p != nil {
			v, ok, err = nil, false, fmt.Errorf("the jq interpreter broke: %v", p)
		}
	}()
	values := e.code.RunWithContext(ctx, input)
	v, ok = values.Next()
	if !ok {
		return nil, false, nil
	}
	if err, failed := v.(error); failed {
		return nil, false, evaluationError(ctx, err)
	}
	if extra, more := values.Next(); more {
		if err, failed := extra.(error); failed {
			return nil, false, evaluationError(ctx, err)
		}
		return nil, false, errMany
	}
	return v, true, nil
}

func evaluationError(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		return fmt.Errorf("not done after %v: %w", MaxEvaluation, err)
	}
	return err
}

// holds reports whether a condition holds: on any value but false and null.
func (e *expr) holds(ctx context.Context, input any) (bool, error) {
	v, ok, err := e.run(ctx, input)
	return ok && v != nil && v != false, err
}

// json returns the program's value as JSON, or nothing when it yields none.
func (e *expr) json(ctx context.Context, input any) ([]byte, error) {
	v, ok, err := e.run(ctx, input)
	if err != nil || !ok {
		return nil, err
	}
	left := MaxBody
	if err := measure(v, maxDepth, &left); err != nil {
		return nil, err
	}
	return gojq.Marshal(v)
}

// maxDepth is what encoding/json allows in what it reads.
const maxDepth = 10_000

// measure refuses values that are too deep or too large to print. It must come
// before printing: a program can make a small value that shares its parts and
// prints as more than the memory holds.
func measure(v any, depth int, left *int) error {
	if depth == 0 {
		return fmt.Errorf("its value is more than %d levels deep", maxDepth)
	}
	*left -= 1
	switch v := v.(type) {
	case string:
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
			*left -= len(name) + 3
			if err := measure(item, depth-1, left); err != nil {
				return err
			}
		}
	}
	if *left < 0 {
		return fmt.Errorf("its value is over %d bytes", MaxBody)
	}
	return nil
}

// parseJSON reads one JSON value, or null from nothing. What Go's decoder would
// silently replace is an error: a body must not change on its way.
func parseJSON(data []byte) (any, error) {
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
	return v, nil
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
