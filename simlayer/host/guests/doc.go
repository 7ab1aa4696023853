// Package guests is the object host: the process in which objects of the kinds rules,
// wasm, compatible and refuse answer their callers, out of the agent's. It does as the
// orders say that come over its control socket, by [Serve], and ends with that.
//
// Objects that follow each other run one after the other, as in so.NewChain. A call
// goes by the setup that was in force when it came, except where it waits for a next
// that is away: it follows the orders that come meanwhile.
package guests
