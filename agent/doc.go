// Package agent looks after one node: it is the driver of agent/node, which decides,
// and the wiring of everything below it.
//
// One goroutine, the loop, owns the node.Node, and with it the machine, the view and
// the documents: what only it may touch is in a loop, which nobody else has. Everything
// else (the ring, the control API, the software's process, fetches and transforms) runs
// beside it, as methods of the Agent, and sends it messages, which it handles one after
// the other (see message). The loop makes what a Ready says durable before it tells anyone
// or starts an action (see agent/node), and never waits for what runs beside it.
package agent
