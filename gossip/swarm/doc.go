// Package swarm moves chunks of artifacts, and blobs, between peers.
//
// # Protocol
//
// A Server answers, below Path, by what its Source has:
//
//	GET have?digest=sha256:…   200: one bit a chunk of the artifact's table, chunk 0
//	                           in the lowest bit of the first byte; 404: nothing of it
//	GET chunk/<64 hex digits>  200: the bytes of the chunk; 404
//	GET blob/<64 hex digits>   200: the bytes of the blob; 404
//
// Bodies of chunks and blobs come with "Content-Encoding: zstd" where that is
// smaller. 503 means "busy, ask again in a while" (Retry-After).
//
// # Fetching
//
// A Fetcher asks several peers at once, the rarest chunk first, and believes
// nobody: each chunk is verified by its digest before it counts. Whom to ask
// for what is decided by Planner, which is pure; Fetcher does what it says over
// HTTP. A peer that sends wrong bytes is not asked again in this fetch and is
// reported; a slow one keeps one request, and another peer is asked for the
// same chunk; a failing one rests for a while that doubles. A fetch ends when
// all is there or its context ends, never because peers have gone: they may
// come back.
//
// So that a release spreads through the swarm, and not from the one peer at
// which it was injected, an origin (Peer.Origin) is asked for what nobody else
// is known to have, and for anything else only one chunk at a time when all
// others are busy; equally rare chunks are taken in an order of each fetcher's own.
//
// Memory is bounded by MaxInFlight chunks per fetch, whatever peers send.
package swarm
