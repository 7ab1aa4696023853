// Package gossip is one agent's part in the ring: who is there, and how what
// one peer knows becomes what all know.
//
// Start opens one port (UDP and TCP) and makes a Gossip. Join, or the
// addresses of Config.Peers, bring it into the ring. From then on it keeps the
// caller's Replica (the view and the trust metadata) in step with all peers,
// and carries the caller's own requests between peers (Do, Config.Handler).
// The package owns no state worth keeping: it may be ended by Close and
// started anew at any time.
//
// # What is certain and what is not
//
// Anti-entropy is the guarantee: every Config.SyncInterval, and at once after
// a join or an announcement, an agent exchanges with a peer until both hold
// what either held. Late joiners, healed partitions and lost packets converge
// by it alone. All else is haste: rumours spread a changed record in seconds,
// announcements bring a new trust set to everyone's notice at once, and both
// may be lost, repeated or forged without harm, because they only bring
// signed records (which the Replica verifies) or make their receiver ask.
//
// Membership (Members, Status) is for people and for pacing. It is never
// evidence of what a node does: holders of the gossip key are trusted with it.
//
// # Identity
//
// A node is its ed25519 key. Every TCP stream is TLS 1.3 with both sides' node
// certificates, which are self-signed: nobody reads their names or dates, the
// handshake proves the key. Then each side proves that it belongs to the ring:
//
//	proof = HMAC-SHA256(admission key, role + exporter)
//
// where role is "dialer" or "listener", exporter is 32 bytes of TLS keying
// material under "EXPORTER-moult-admission-v1" with the cluster's digest as
// context, and the admission key is derived by HKDF from the gossip key and the
// cluster. The dialer sends its proof first (32 bytes); the listener answers
// with its own, by the same key, or with zeros, which mean refusal. While the
// gossip key is replaced an agent has two: it dials by the first, and lets in by both. So agents of another
// cluster, or with another gossip key, get ErrForeign, and learn nothing.
//
// ALPN tells the two uses of streams apart: "moult-ring/1" is memberlist's own
// protocol, "moult-peer/1" is HTTP/1.1 between peers. Packets are memberlist's,
// encrypted under a key derived from the gossip key and labelled with the
// cluster.
//
// A name belongs to the key that it was first seen with, for as long as that
// member lives. Another key that claims it is not let in, and reported
// (Conflict); so is one key that lives at two addresses. When the holder's own
// address proves another key by TLS, the name goes over.
//
// # Rumours
//
// A record that was news here is told to Config.RumourFanout random live
// members in each of Config.RumourRounds rounds, in packets of at most 1,300
// bytes through memberlist's best-effort messages:
//
//	0xF0, 32 bytes NodeID of the teller, entries
//	entry: kind, uvarint length, body
//	kind 1: a view.Signed in its binary form
//	kind 2: 32 bytes NodeID, 8 bytes sequence number (big-endian)
//
// Kind 2 stands for a record that is too long for a packet: receivers that lack
// it fetch it from the teller over a stream. Unknown kinds are skipped. A newer
// record of a node takes the place of an older one. What came by anti-entropy is
// not told again: it is news to few, or (after a partition) too much at once.
//
// # Anti-entropy
//
// HTTP with JSON bodies, all bounded (see limits.go); the caller is A:
//
//	POST /moult/v1/hello        {name, addr} → {name}; 409 when the name is taken
//	POST /moult/v1/sync/digest  A's trust heads and bucket hashes
//	                            → B's heads, which buckets differ, B's stamps in them
//	POST /moult/v1/sync/records {want: node IDs, push: records} → {records}
//	GET  /moult/v1/sync/trust/<hex>  a trust set, or evidence, by its digest
//	POST /moult/v1/sync/trust        a trust set that the receiver lacks
//
// The digest and records steps repeat until nothing differs. Where two records
// of a node have one sequence number and different bytes, both go over, so that
// both peers see it. Of two trust sets the newer one goes over; of two with one
// timestamp version, both do: they may be evidence of a conflict. Other paths
// are Config.Handler's.
package gossip
