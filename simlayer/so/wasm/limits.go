package wasm

import (
	"errors"
	"fmt"
	"time"

	"moult/simlayer/so"
	"moult/simlayer/so/wasm/fuel"
)

// Limits bounds what one object may use. DefaultLimits fills it; a zero field
// is not valid.
type Limits struct {
	// Pages bounds the memory of one instance, in pages of 64 KiB. The guest's
	// call stack lies outside: wazero ends a guest whose stack grows past 50 to
	// 100 MB.
	Pages uint32
	// CallTime bounds the time that a guest takes for one call: the time of its
	// calls to next, of waiting for bodies, and in which the machine was busy with
	// other programs (package cputime) does not count.
	CallTime time.Duration
	// StartTime bounds the time that a new instance takes to get ready.
	StartTime time.Duration
	// WaitTime bounds how long a call waits for an instance, and a guest for
	// the caller's body.
	WaitTime time.Duration
	// Body bounds, in bytes, a body that a guest reads or writes. Bodies that it
	// does not touch are streamed and have no bound here.
	Body int
	// NextCalls bounds the calls that a guest makes to answer one.
	NextCalls int
	// Instances bounds the instances, and so the calls that are answered at once.
	Instances int
}

// DefaultLimits returns the limits that objects have unless told otherwise.
func DefaultLimits() Limits {
	return Limits{
		Pages:     1024,
		CallTime:  time.Second,
		StartTime: 10 * time.Second,
		WaitTime:  10 * time.Second,
		Body:      so.MaxBody,
		NextCalls: so.MaxNextCalls,
		Instances: 32,
	}
}

// Validate says which limit makes no sense.
func (l Limits) Validate() error {
	var errs []error
	for _, f := range []struct {
		name      string
		value, to int64
	}{
		{"Pages", int64(l.Pages), MaxPages},
		{"CallTime", int64(l.CallTime), int64(time.Minute)},
		{"StartTime", int64(l.StartTime), int64(time.Minute)},
		{"WaitTime", int64(l.WaitTime), int64(time.Minute)},
		{"Body", int64(l.Body), 64 << 20},
		{"NextCalls", int64(l.NextCalls), so.MaxNextCalls},
		{"Instances", int64(l.Instances), MaxInstances},
	} {
		if f.value < 1 || f.value > f.to {
			errs = append(errs, fmt.Errorf("limit %s is %d, want 1 to %d", f.name, f.value, f.to))
		}
	}
	return errors.Join(errs...)
}

// Bounds that are the same for all objects.
const (
	// MaxModule bounds a module, in bytes.
	MaxModule = fuel.MaxModule
	// MaxPages and MaxInstances bound the limits of that name.
	MaxPages     = 16 << 10
	MaxInstances = 1024
	// MaxConfig bounds the configuration that a guest is given, in bytes.
	MaxConfig = 1 << 20
	// MaxHeaderBytes bounds the names and values of headers that a guest sets
	// in one call.
	MaxHeaderBytes = 256 << 10
	// MaxURI bounds, in bytes, what a guest calls by next.
	MaxURI = 64 << 10
	// MaxReason bounds the reason of a denial, in bytes; what is longer is cut.
	MaxReason = so.MaxReasonBytes
	// MaxLogLines and MaxLogLine bound what a guest logs in one call: lines, and
	// the bytes of each. What is more is dropped, and that is logged.
	MaxLogLines = 64
	MaxLogLine  = 4 << 10

	// MaxStateKeys, MaxStateBytes and MaxStateValue bound the state of one
	// object: keys, bytes of keys and values together, and of one value.
	MaxStateKeys  = 64 << 10
	MaxStateBytes = 32 << 20
	MaxStateValue = 8 << 20
	// MaxStateName bounds the name of the file that has a key's value.
	MaxStateName = 200
	// MaxStateOps bounds the operations of one batch.
	MaxStateOps = 1024

	// maxBatch bounds the file of a batch: whatever changes a whole state has room.
	maxBatch = 2 * MaxStateBytes

	// MaxCached bounds the modules whose compiled code is kept on disk.
	MaxCached = 16

	// grant is how many units of fuel a guest gets at once: some 0.1 to 1 ms.
	grant = 1 << 20
	// lightCalls is how many cheap host functions a guest calls between looks at
	// the clock.
	lightCalls = 256
	// renewCalls is after how many calls an instance gets a new call stack.
	renewCalls = 256
	// idleTime is how long an instance that nobody needs is kept.
	idleTime = time.Minute
)
