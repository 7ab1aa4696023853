// Package kv1 is version 1 of kv, a small key-value node. Its clients
// replicate: they write to as many nodes as they like. A node that misses a
// key asks its peers for it and keeps what it finds (read repair).
//
// # Protocol
//
//	GET /get?k=KEY               200 {"key": "…", "value": "…"}, 404 {"error": "…"}
//	PUT /set {"key", "value"}    200 {"key": "…"}
//	GET /list                    200 {"keys": ["…", …]}, sorted
//	GET /healthz                 200 {"status": "ok"}
//	GET /stats                   200 {"ok", "failed", "errors"}: calls since its start, and the share that failed
//
// A key is 1 to 80 bytes of UTF-8 and neither "." nor ".."; a value is at most
// 1 MiB of UTF-8 text. A set has reached the disk when it is acknowledged.
// Other answers are 400 for what is malformed, 500 for what went wrong at the
// node, and 503 with Retry-After for a miss that is not certain because a peer
// did not answer; all of them are {"error": "…"}.
//
// The header "Kv-Repair: 1" on a get says that another node asks: this one
// then asks nobody else.
//
// # State
//
//	STATE/keys/ESCAPED    one file for each key: the value, as it is
//	STATE/tmp/            files that are not finished
//
// ESCAPED is the key with every byte other than a-z 0-9 _ - as %XX.
package kv1
