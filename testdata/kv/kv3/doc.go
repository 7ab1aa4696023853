// Package kv3 is version 3 of kv: version 2 with other names. What was a value
// is now called data, in the protocol and on the disk, and keys have moved.
//
// # Protocol
//
//	GET    /v3/entries/{key}    200 {"key", "data", "revision", "content_type"}
//	PUT    /v3/entries/{key} {"data", "content_type"?, "if_revision"?}
//	                            200 {"key", "revision"}
//	DELETE /v3/entries/{key}    200 {"key", "revision"}
//	GET    /v3/entries          200 {"keys": ["…", …]}, sorted
//	GET    /healthz             200 {"status": "ok"}
//	GET    /stats               200 {"ok", "failed", "errors"}: calls since its start, and the share that failed
//
// All of it means what package kv2 says.
//
// # State
//
// As in package kv2, but FORMAT says "kv 3" and the field "value" of a file is
// called "data".
//
// # Migration
//
// "kv-v3 migrate" makes this state out of version 2's: from the folder that
// $MOULT_OLD names, which it only reads, into the folder that $MOULT_NEW
// names. Revisions stay, and so does what is left of deleted keys. It may be
// run again after it was interrupted. Making the new folder durable is left to
// the caller, who knows when.
package kv3
