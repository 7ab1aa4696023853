// Package view is what a peer knows of every node: a CRDT of status records.
//
// A [Record] is what one node says of itself. Only that node writes it: the
// record carries the node's public key, the key's digest is the node's
// identity, and the key signs the record. [Sign] makes a [Signed] record and
// [Open] alone makes a Record of one, so a Record that came from elsewhere has
// been verified.
//
// A [View] holds one Signed record for each node. [View.Merge] keeps, of two
// records of a node, the one with the greater sequence number. A node that
// signs two different records with one number breaks its promise; then the
// greater digest wins, everywhere alike, and the pair is kept as evidence (see
// [View.Equivocations]). So the records of a node are totally ordered, and a
// view is the maximum for each node: merging is commutative, associative and
// idempotent, and a view only ever rises (promise P8).
//
// A node may be forgotten, by a word that is signed elsewhere ([View.Forget]): its records
// up to a number are as if they had never been. Views that forget the same are as before:
// the maximum of what they were given, and equal where that is.
//
// # The record format
//
// A signed record is a JSON object and an ed25519 signature over
//
//	"moult status record v1\n" + the object's bytes
//
// The object is canonical: keys sorted, no spaces, strings escaped as Go's
// encoding/json does without HTML escapes, and it is at most MaxRecordBytes
// long. With the least that a record can say:
//
//	{"class":"kv","format":1,"key":"<base64>","name":"n1","node":"<hex>","phase":"current","seq":1}
//
// Rules for its evolution. Fields are only added, and the format stays 1 as
// long as that suffices: a reader skips fields that it does not know and
// relays the bytes as they were signed, so an older agent passes on what a
// newer one says. A field that is absent says nothing: no decision may rest on
// its absence (promise P9). A record of a greater format is refused.
//
// # Anti-entropy
//
// A view is cut into [NumBuckets] buckets by node identity. Two peers compare
// [Snapshot.Buckets], then the [Snapshot.Stamps] of the buckets that differ,
// then send each other what the other lacks:
//
//	A → B  the hashes of A's buckets
//	B → A  B's stamps of the buckets in DifferentBuckets
//	A      send, want := Missing(bucket, stamps)
//	A → B  the records send, and the identities want
//	B → A  the records wanted
//
// Afterwards both hold the merge of both views. The package has no clock, no
// lock and no network; one owner merges, and gives readers a [Snapshot], which
// never changes.
package view
