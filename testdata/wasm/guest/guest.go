//go:build wasip1

package guest

import (
	"encoding/binary"
	"errors"
	"strings"
	"unsafe"
)

// Sides of the call that the guest answers.
const (
	Request  = 0
	Response = 1
)

// BufferResponse is the feature of reading and changing what next answers.
const BufferResponse = 2

// What functions of the host return for what a guest can deal with.
var (
	ErrNext     = errors.New("the call to next failed")
	ErrConflict = errors.New("the state is not what the change expects")
	ErrFull     = errors.New("the state is full")
)

// EnableFeatures asks for features of http-wasm.
func EnableFeatures(features uint32) { enableFeatures(features) }

// Config is what the object was given.
func Config() string { return text(getConfig) }

// From and To are the versions of the callers and of what they are to reach.
func From() uint64 { return fromVersion() }
func To() uint64   { return toVersion() }

// Method is the caller's method.
func Method() string { return text(getMethod) }

// URI is the caller's path and query.
func URI() string { return text(getURI) }

// SetURI changes what the call asks for, before it goes on.
func SetURI(uri string) { setURI(uri) }

// SetHeader sets a header of one side.
func SetHeader(side uint32, name, value string) { setHeader(side, name, value) }

// Status is what next has answered; SetStatus changes it.
func Status() int { return int(getStatus()) }

// SetStatus sets what the caller gets.
func SetStatus(status int) { setStatus(uint32(status)) }

// Body reads the body of one side.
func Body(side uint32) []byte {
	return all(func(buf unsafe.Pointer, limit uint32) uint64 { return readBody(side, buf, limit) })
}

// SetBody makes the body of one side.
func SetBody(side uint32, data []byte) { writeBody(side, pointer(data), uint32(len(data))) }

// Log logs a line.
func Log(line string) { logLine(0, line) }

// Deny refuses the call; return after it. Status 0 is 501.
func Deny(status int, reason string) { deny(uint32(status), reason) }

// Kinds of event that handle_observed is told of.
const (
	ObservedBegin  = 0
	ObservedCall   = 1
	ObservedMissed = 2
)

// ObservedNumber is the number of the event, and ObservedWhy why calls were missed.
func ObservedNumber() uint64 { return observedNumber() }
func ObservedWhy() string    { return text(observedWhy) }

// ObservedCalls is how many were missed, ObservedService whose call it was, and
// ObservedTruncated whether there was more of the body of one side.
func ObservedCalls() uint64              { return observedMissed() }
func ObservedService() string            { return text(observedService) }
func ObservedTruncated(side uint32) bool { return observedTruncated()>>side&1 != 0 }

// Call is a call to next.
type Call struct{ n uint32 }

// NewCall begins a call to next with the caller's headers.
func NewCall(method, uri string) Call {
	c := Call{nextNew(method, uri)}
	nextCopyHeaders(c.n)
	return c
}

// SetHeader sets a header of the call.
func (c Call) SetHeader(name, value string) { nextSetHeader(c.n, name, value) }

// Do sends the call with a body and returns what it gives. After ErrNext, Raise
// passes the failure on.
func (c Call) Do(body []byte) (status int, answer []byte, err error) {
	nextWriteBody(c.n, pointer(body), uint32(len(body)))
	s := nextSend(c.n)
	if s < 0 {
		return 0, nil, ErrNext
	}
	answer = all(func(buf unsafe.Pointer, limit uint32) uint64 { return nextReadBody(c.n, buf, limit) })
	nextClose(c.n)
	return int(s), answer, nil
}

// Raise gives the caller the failure of the call; return after it.
func (c Call) Raise() { nextRaise(c.n) }

// Get returns the value of a key of the state.
func Get(key string) ([]byte, bool) {
	n := stateGet(key, nil, 0)
	if n < 0 {
		return nil, false
	}
	for {
		buf := make([]byte, n)
		// Another instance may have changed it.
		switch m := stateGet(key, pointer(buf), uint32(n)); {
		case m < 0:
			return nil, false
		case m <= n:
			return buf[:m], true
		default:
			n = m
		}
	}
}

// Set sets a key of the state.
func Set(key string, value []byte) error {
	return result(stateSet(key, pointer(value), uint32(len(value))))
}

// Delete deletes a key of the state.
func Delete(key string) { stateDelete(key) }

// List returns all keys that start with prefix.
func List(prefix string) []string {
	var keys []string
	buf := make([]byte, 4096)
	after := ""
	for {
		n := uint32(stateList(prefix, after, pointer(buf), uint32(len(buf))))
		if n == 0 {
			return keys
		}
		keys = append(keys, strings.Split(string(buf[:n-1]), "\x00")...)
		after = keys[len(keys)-1]
	}
}

// Batch is changes that are made together.
type Batch struct{ ops []byte }

func (b *Batch) add(kind byte, key string, value []byte) {
	b.ops = append(b.ops, kind)
	b.ops = binary.LittleEndian.AppendUint32(b.ops, uint32(len(key)))
	b.ops = binary.LittleEndian.AppendUint32(b.ops, uint32(len(value)))
	b.ops = append(append(b.ops, key...), value...)
}

// Delete, Set, IfEqual and IfAbsent add a change, or a condition for all.
func (b *Batch) Delete(key string)                { b.add(0, key, nil) }
func (b *Batch) Set(key string, value []byte)     { b.add(1, key, value) }
func (b *Batch) IfEqual(key string, value []byte) { b.add(2, key, value) }
func (b *Batch) IfAbsent(key string)              { b.add(3, key, nil) }

// Apply makes the changes, all or none.
func (b *Batch) Apply() error { return result(stateApply(pointer(b.ops), uint32(len(b.ops)))) }

func result(code int32) error {
	switch code {
	case 0:
		return nil
	case -3:
		return ErrConflict
	}
	return ErrFull
}

func pointer(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }

func text(f func(unsafe.Pointer, uint32) uint32) string {
	buf := make([]byte, f(nil, 0))
	n := f(pointer(buf), uint32(len(buf)))
	return string(buf[:n])
}

func all(f func(unsafe.Pointer, uint32) uint64) []byte {
	var data []byte
	buf := make([]byte, 4096)
	for {
		n := f(pointer(buf), uint32(len(buf)))
		data = append(data, buf[:uint32(n)]...)
		if n>>32 != 0 {
			return data
		}
	}
}
