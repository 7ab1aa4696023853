package gossip

import "time"

// Every bound of this package stands here. A peer that holds the gossip key
// is still not trusted with this agent's memory: what it sends is cut off at
// these sizes (promise P10).
const (
	// Streams.
	handshakeTimeout    = 5 * time.Second // TLS and admission together
	maxHandshakes       = 128             // inbound handshakes at a time
	handshakesPerSource = 32              // of them, those from one address; see shares
	maxStreams          = 1024            // inbound streams at a time; some 50 KB each
	streamsPerSource    = 256             // of them, those from one address
	maxStreamsPerPeer   = 32              // inbound streams of one identity; further ones are closed
	dialTimeout         = 5 * time.Second
	twinTimeout         = 5 * time.Second // to see whether a node is still where it was
	maxWorkConnsPerPeer = 8               // outbound, for Do
	maxSyncConnsPerPeer = 2               // outbound, for anti-entropy, so that chunks never delay it

	// HTTP between peers.
	readHeaderTimeout     = 5 * time.Second
	readTimeout           = time.Minute
	writeTimeout          = 5 * time.Minute
	idleTimeout           = 2 * time.Minute
	responseHeaderTimeout = 30 * time.Second
	maxHeaderBytes        = 16 << 10
	maxHandlerBody        = 4 << 20 // request body for Config.Handler

	// Anti-entropy.
	exchangeTimeout    = time.Minute
	maxConcurrentSyncs = 32       // requests served at a time; further ones are told to come back
	maxTrustSet        = 16 << 20 // bytes of one marshalled trust set
	maxConcurrentTrust = 4        // trust sets in memory at a time, in requests served
	maxDigestBody      = 64 << 10 // a digest request: heads and bucket hashes
	maxStampsBody      = 8 << 20  // a digest reply
	maxStampsPerReply  = 4096     // a reply ends after the bucket that reaches it
	maxRecordsBody     = 4 << 20  // a records request or reply
	maxRecordsPerPage  = 64       // records asked for, or pushed, at a time
	maxPageBytes       = 1 << 20  // records in one page; JSON at most doubles them
	maxRounds          = 16       // digest rounds of one exchange
	maxRefusedSets     = 64       // trust sets remembered as offered in vain
	refusedSetTime     = 10 * time.Minute

	// Rumours.
	maxRumourPacket  = 1300 // bytes, so that a packet with its encryption stays below 1,400
	maxRumours       = 4096 // records waiting to be told; further ones are left to anti-entropy
	maxRumourPackets = 256  // packets received and not yet read; further ones are dropped
	maxHintFetches   = 256  // hints waiting to be fetched; further ones are dropped
	packetsPerRound  = 8    // packets to one peer in one rumour round

	// Serf.
	maxHints         = 16  // announcements waiting; the oldest is dropped, anti-entropy covers it
	maxQueries       = 64  // queries waiting for the handler; the newest is dropped
	maxQueryPayload  = 512 // bytes asked
	maxQueryAnswer   = 800 // bytes answered; Serf's limit is 1,024 with its envelope
	maxTagBytes      = 300 // names and values of Config.Tags; memberlist's limit for all is 512
	maxNameBytes     = 128
	maxJoinAddresses = 1024
	maxUDPPacket     = 64 << 10
	udpReceiveBuffer = 2 << 20
	eventBuffer      = 256 // Serf's channel; it is drained at once

	// Logs.
	logInterval = 10 * time.Second // between two lines of what peers may repeat at will

	// Leaving.
	broadcastTimeout    = 2 * time.Second
	leavePropagateDelay = 500 * time.Millisecond
)
