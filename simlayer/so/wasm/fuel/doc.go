// Package fuel rewrites a WebAssembly module so that its code can be stopped.
//
// A guest that wazero has compiled runs as machine code without safepoints: one
// that spins cannot be interrupted, and the next garbage collection of its whole
// process waits for it. [Instrument] puts a counter into the module. Every function
// at its entry and every loop at each turn takes from the counter as many units as
// it has instructions of its own (those of an inner loop are the inner loop's), and
// the bulk instructions (memory.copy, table.fill, …) take as many more as they have
// bytes or entries to move. So units bound instructions, whatever the shape of the
// code: a tight loop, an endless recursion, an exponential tree of calls, a body of
// a million instructions. Below zero the code calls the imported function
//
//	(import "moult_fuel" "tick" (func (param i32) (result i32)))
//
// with what is left, a negative number, and goes on with what it returns. There the
// host looks at the clock and grants more units (not negative), or panics, which
// traps. A call into Go is a safepoint, so that a garbage collection waits for the
// units of one grant at most. A new instance has no units: its first function asks.
//
// A rewritten module computes what the original does. It differs in these points:
// it has one import, one global, one type and one local per function more, tables
// grow to MaxTable entries at most, and of its custom sections only the names of
// functions remain.
//
// Modules are those of WebAssembly 2.0, which is what wazero runs by default: the
// first version with bulk memory, sign extension, saturating conversions, multiple
// values, reference types and SIMD. Anything later (tail calls, threads, exceptions,
// garbage collection, several memories, 64-bit memories, relaxed SIMD) is refused by
// name. The rewriting checks what it needs: that the module is well formed, and that
// nothing in it names what it is going to add. It does not check types; the compiler
// does so afterwards, and what is rewritten is valid only if the original was.
package fuel
