package swarm

import "time"

// Bounds of what a fetch and a server use.
const (
	// MaxBlob bounds a blob, in bytes.
	MaxBlob = 16 << 20
	// MaxInFlight bounds the requests for chunks that one fetch has open.
	MaxInFlight = 16
	// maxNeighbours bounds the peers that one fetch deals with at a time.
	maxNeighbours = 24
	// maxDecoderMemory bounds what decompressing a chunk may take, in bytes.
	maxDecoderMemory = 32 << 20
	// maxDecoderWindow bounds what of it a stream may ask for at once.
	maxDecoderWindow = 8 << 20

	// perPeer and perOrigin bound the requests for chunks that one fetch has
	// open to one peer.
	perPeer   = 4
	perOrigin = 2

	// maxScan is how many missing chunks are looked at for the rarest.
	maxScan = 4096

	// haveFirst is the time between two questions to a peer for what it has,
	// while its answers bring news; it grows by half up to haveLast.
	haveFirst = 50 * time.Millisecond
	haveLast  = 10 * time.Second
	// haveTimeout bounds one such question.
	haveTimeout = 10 * time.Second
	// restFirst is how long a failing peer is left alone; doubled up to restLast.
	restFirst = 250 * time.Millisecond
	restLast  = 30 * time.Second
	// refreshEvery is the time between two looks at who the peers are.
	refreshEvery = 5 * time.Second
	// slowAfter is when a request for a chunk counts as slow.
	slowAfter = 3 * time.Second
	// A transfer may take transferGrace and then a second for each
	// transferRate bytes.
	transferGrace = 15 * time.Second
	transferRate  = 8 << 10

	// serveAtOnce is how many requests a server works on when
	// ServerOptions.MaxConcurrent is 0.
	serveAtOnce = 16
	// serveWait is how long one more waits for its turn, before somebody who has more places
	// gives one up or it is told to come back.
	serveWait = 2 * time.Second
	// pieceBytes is what is written at a time under a bandwidth limit.
	pieceBytes = 16 << 10
)
