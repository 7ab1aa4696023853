// Package kvload puts kv nodes under steady load, as clients of one version,
// and checks every answer.
//
// # What is checked
//
// Each worker calls one node and is the only writer of its keys there. So it
// knows what a read must find: just what the last acknowledged write left, with
// its content type and, where revisions are known, its revision. An answer that
// differs in a byte, a list without a key that exists, a condition that was
// carried out although it did not hold, or one that was refused although it
// held: each is a failed call, as is any error. What a write that failed has
// done is not known; its key is left alone from then on.
//
// # Calls that are sent again
//
// A server may close a connection that it thinks idle just when a client sends
// a call on it, so a client that keeps connections must be ready to send a call
// anew (RFC 9112, 9.3.1 and 9.5). What stands between client and node can hide
// that; where a client's connection ends at the node itself, nothing does, and
// every polite end of the node's software closes its idle connections.
//
// RFC 9110, 9.2.2, allows it for calls whose effect is the same twice: GET, PUT
// and DELETE are all idempotent. With Config.Resend the clients do so, as net/http
// does it: only on a connection that had carried calls before, and only where not
// one byte of an answer has come. A call that got an answer, or a part of one, is
// never sent again. The load knows what the second time can look like: a write
// may take a revision more than one, a delete may find nothing, and a condition
// may fail because the first time was carried out, which a read then shows.
// Result.Resent counts them.
//
// With Config.Repair the workers also read each other's nodes' newest keys,
// which makes the nodes call each other.
//
// # Denied calls
//
// Clients of version 2 and 3 also write binary values, write on conditions and
// delete; clients of version 1 also read the binary values. While a node is of
// another version than its caller these may have no meaning there. An answer
// with the header "Moult-Refusal: denied" says so. It counts as denied where
// the call is of that kind, and as failed for any other call, and for nodes
// that have shown before that they keep revisions. A client of version 1 that
// was denied a value must be denied it from then on: a value does not get lost.
//
// # Nodes that go back
//
// With Config.Back nodes may go back to version 1, and forward again. What version 1 cannot
// hold is then not there for a while: a binary value may be missing, and calls that have no
// meaning there may be denied, also by nodes that have shown revisions. But all of it must be
// there when the load ends and each worker reads its keys a last time, the nodes being forward
// again; and revisions go on rising from where they were.
package kvload
