// Package kv2 is version 2 of kv. A value now has a content type and a
// revision, so that a client can write on the condition that nobody else did.
//
// # Protocol
//
//	GET    /v2/keys/{key}    200 {"key", "value", "revision", "content_type"}
//	PUT    /v2/keys/{key} {"value", "content_type"?, "if_revision"?}
//	                         200 {"key", "revision"}
//	DELETE /v2/keys/{key}    200 {"key", "revision"}
//	GET    /v2/keys          200 {"keys": ["…", …]}, sorted
//	GET    /healthz          200 {"status": "ok"}
//	GET    /stats            200 {"ok", "failed", "errors"}: calls since its start, and the share that failed
//
// Keys and the size of values are those of version 1. "value" is the text
// itself where content_type is text/… (text/plain where a put names none), and
// standard base64 of any other value's bytes.
//
// The first revision of a key is 1, and each put and delete adds 1; a deleted
// key goes on counting when it is written again, so no revision ever names two
// values of a key at one node. A put with if_revision is carried out only if
// the key exists at just that revision; otherwise the answer is 409 {"error",
// "revision"} with the revision that it has, 0 if it does not exist. So
// if_revision 0 never holds. A revision 0 in an answer to a get or a put says that
// the revision is not known.
//
// Other answers are as in version 1: 400, 404, 500, and 503 with Retry-After
// for a miss that is not certain. So is read repair, with "Kv-Repair: 1"; what a
// node finds at a peer it keeps at the peer's revision. It does not ask for a
// key that was deleted here.
//
// # State
//
//	STATE/FORMAT                    "kv 2"
//	STATE/objects/HH/ESCAPED.json   one file for each key
//	STATE/tmp/                      files that are not finished
//
// HH is the first byte of the key's SHA-256 in hexadecimal, ESCAPED the key
// with every byte other than a-z 0-9 _ - as %XX. The file is what a get
// answers, or, of a deleted key, {"key", "revision", "deleted": true}.
//
// # Migration
//
// "kv-v2 migrate" makes this state out of version 1's: from the folder that
// $MOULT_OLD names, which it only reads, into the folder that $MOULT_NEW
// names. Every key gets revision 1 and text/plain. It may be run again after it
// was interrupted. Making the new folder durable is left to the caller, who
// knows when.
//
// Where the release's simulation objects are those of testdata/wasm/kvtypes, values
// that callers of this version wrote at the old node have the types that they gave:
// the future object has noted them in $MOULT_FUTURE_STATE. The past object is told,
// in $MOULT_PAST_STATE, which of them callers of version 1 have been able to read.
package kv2
