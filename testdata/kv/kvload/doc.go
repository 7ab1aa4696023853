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
package kvload
