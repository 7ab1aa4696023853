// Package agent looks after one node: it is the driver of agent/upgrade and
// the wiring of everything below it.
//
// One goroutine, the loop, owns the machine, the view, the trust metadata and
// the documents. Everything else (the ring, the control API, the software's
// process, fetches and transforms) runs beside it and sends it closures, which
// the loop runs one after the other. The loop makes the machine's state
// durable before it starts an action (see agent/upgrade), and never waits for
// the network.
package agent
