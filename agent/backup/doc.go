// Package backup saves a node, and puts it in place again.
//
// A backup is a folder that only its owner may read, for it holds the node's key:
//
//	backup.json    whose it is, of when, and the digest of each of the parts below
//	identity.pem   the node's key
//	store/         floor.json and db, as [store.Copy] makes them
//	state/N        the state of the software, of version N, which ran; none where it was left out
//	objects/       the state of simulation objects
//	artifacts/     software and signed documents
//
// [Make] writes one beside its name and renames it when all of it is durable. [Put] checks all of
// it before it writes anything, and fills an empty data folder. It is interrupted anywhere and
// called again; until it has ended no agent starts there ([home.Restoring]). What the node has
// signed since the backup its agent takes back from its peers before it does anything: see
// [home.Claim].
package backup
