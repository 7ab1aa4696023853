// Package artifact keeps the big files of releases on a peer: artifacts (tars
// of software, cut into chunks) while they are fetched, when they are whole,
// and unpacked; and blobs (rules files, manifests, orders), which are small.
//
//	DIR/<hex>.chunks    the artifact's chunk table, JSON
//	DIR/<hex>.partial   the tar while it is assembled: a file of its final length with holes
//	DIR/<hex>.tar       the whole tar
//	DIR/<hex>/          the tar unpacked
//	DIR/blobs/<hex>     one blob
//	DIR/.tmp-*          unfinished work of a process that died; Open removes it
//
// <hex> is the digest of the tar or blob. The main types are Depot and
// Assembly.
//
// # Guarantees
//
//   - Nothing is stored under a digest before its bytes have been verified by
//     that digest, and whatever is read is verified again: a bit that flipped
//     on the disk is neither served to others nor run.
//   - A tar, a folder or a blob that is there is whole and durable: each is
//     made under another name, synced, and renamed.
//   - An Assembly that a crash interrupted goes on from what the disk holds:
//     each chunk is hashed again, so nobody need have synced it. A tar that was
//     found damaged goes the same way: only its bad chunks are fetched again.
//   - A chunk that any whole artifact here has already is copied, not fetched.
//   - Not more than Options.MaxBytes are kept.
package artifact
