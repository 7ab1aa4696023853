// Package agent looks after one node: it is the driver of agent/node, which decides,
// and the wiring of everything below it.
//
// One goroutine, the loop, owns the node.Node, and with it the machine, the view and
// the documents. Everything else (the ring, the control API, the software's process,
// fetches and transforms) runs beside it and sends it closures, which the loop runs one
// after the other. The loop makes what a Ready says durable before it tells anyone or
// starts an action (see agent/node), and never waits for the network.
package agent
