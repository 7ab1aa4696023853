// Package wire follows the framing of HTTP in bytes that pass by unchanged: where
// a message ends, and so when a connection is idle between exchanges. It has no
// clock, network, goroutine or lock.
//
// HTTP/1.1 is [ParseRequest] and [ParseResponse] for a whole head (found by
// [HeadEnd]) and [Body] for what follows. HTTP/2 without TLS is [Streams], which
// reads frame headers only.
//
// Whoever uses it does not answer for what the bytes mean, only for when the peer
// may be replaced between two messages. So all is conservative: what is unusual,
// or what two readers of HTTP could understand differently, is not ok, and the
// connection then counts as busy until it ends. Where ok is true, net/http agrees
// with the framing, or refuses the message; the fuzz targets compare them.
package wire
