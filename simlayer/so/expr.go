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
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/itchyny/gojq"
)

// expr is a compiled jq program with what it reads.
type expr struct {
	code *gojq.Code
	fast piece // its bounded form, or nil
	// body: reads the body of the message that it is about. callerBody: is about
	// a response and reads the body of the request. stepBody: reads bodies of
	// steps.
	body, callerBody, stepBody bool
}

var (
	bodyWord    = regexp.MustCompile(`\bbody\b`)
	requestBody = regexp.MustCompile(`\brequest\.body\b`)
	stepBody    = regexp.MustCompile(`\bsteps\.\w+(\[\d*\])?\.body\b`)
	stepsWord   = regexp.MustCompile(`\bsteps\b`)
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
	e := &expr{code: code, fast: bound(src)}
	bodies := len(bodyWord.FindAllString(src, -1))
	e.stepBody = bodies > 0 && stepsWord.MatchString(src)
	others := len(stepBody.FindAllString(src, -1))
	if !overResponse {
		e.body = bodies > others
		return e, nil
	}
	e.body = bodies > others+len(requestBody.FindAllString(src, -1))
	whole := len(requestWord.FindAllString(src, -1)) > len(requestPart.FindAllString(src, -1))
	e.callerBody = bodies > 0 && whole
	return e, nil
}

// errMany is for a program that yields more values than its place has room for.
var errMany = errors.New("it yields more than one value")

// clock bounds the time of several expressions together. What passes between
// them does not count.
type clock struct {
	ctx  context.Context
	left time.Duration
	room *scratch // for values of bounded expressions, or nil
	size int      // about that of a body that is made
}

func newClock(ctx context.Context, room *scratch) clock {
	return clock{ctx: ctx, left: MaxEvaluation, room: room, size: 512}
}

// sized takes the size of a body that was read for that of one that is made of it.
func (c *clock) sized(read int) { c.size = min(max(c.size, read+read/8), believedLength) }

// eval returns the program's only value; ok is false when it yields none.
func (e *expr) eval(c *clock, s scope) (v val, ok bool, err error) {
	defer catch(&err)
	if e.fast == nil {
		return e.general(c, s)
	}
	v, err = e.fast.eval(c.room.run(c), val{scope: s})
	switch err {
	case nil:
		return v, true, nil
	case errEmpty:
		return val{}, false, nil
	case errGiveUp:
		return e.general(c, s)
	}
	return val{}, false, err
}

// catch makes a fault in an interpreter fail this call only.
func catch(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the jq interpreter broke: %v", p)
	}
}

// general runs the program by gojq.
func (e *expr) general(c *clock, s scope) (v val, ok bool, err error) {
	input, err := s.whole()
	if err != nil {
		return val{}, false, err
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.left)
	start := time.Now()
	defer func() {
		c.left -= time.Since(start)
		cancel()
	}()
	values := e.code.RunWithContext(ctx, input)
	out, ok := values.Next()
	if !ok {
		return val{}, false, nil
	}
	if err, failed := out.(error); failed {
		return val{}, false, evaluationError(ctx, err)
	}
	if extra, more := values.Next(); more {
		if err, failed := extra.(error); failed {
			return val{}, false, evaluationError(ctx, err)
		}
		return val{}, false, errMany
	}
	return val{v: out}, true, nil
}

func evaluationError(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		return fmt.Errorf("not done after %v: %w", MaxEvaluation, err)
	}
	return err
}

// holds reports whether a condition holds: on any value but false and null.
func (e *expr) holds(c *clock, s scope) (bool, error) {
	v, ok, err := e.eval(c, s)
	return err == nil && ok && v.truthy(), err
}

// value returns the program's value as one of gojq's.
func (e *expr) value(c *clock, s scope) (v any, ok bool, err error) {
	x, ok, err := e.eval(c, s)
	if err != nil || !ok {
		return nil, false, err
	}
	v, err = x.tree()
	return v, true, err
}

// json returns the program's value as JSON, or nothing when it yields none.
func (e *expr) json(c *clock, s scope) (data []byte, err error) {
	defer catch(&err)
	if e.fast != nil {
		data, err = appendPiece(c.room.run(c), e.fast, val{scope: s}, make([]byte, 0, c.size))
		switch err {
		case errEmpty:
			return nil, nil
		case errGiveUp:
		default:
			return data, err
		}
	}
	x, ok, err := e.general(c, s)
	if err != nil || !ok {
		return nil, err
	}
	left := MaxBody
	if err := measure(x.v, maxDepth, &left); err != nil {
		return nil, err
	}
	return gojq.Marshal(x.v)
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
		return errLarge
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
