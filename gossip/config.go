package gossip

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"moult/gossip/view"
	"moult/store/bundle"
)

// Replica is the state that anti-entropy keeps equal between peers: the view
// and the trust metadata. The agent implements it. It must be safe for
// concurrent use and must verify what it is given. Its methods may call Rumour
// and Announce, but nothing of Gossip that waits (Join, SyncNow, Close).
type Replica interface {
	// Buckets returns one hash for each bucket of the view. Equal hashes mean
	// equal records.
	Buckets() []uint64
	// Stamps returns what is known of each node in the given buckets.
	Stamps(buckets []int) []view.Stamp
	// Records returns the records of these nodes, as they were signed. Unknown
	// nodes are left out.
	Records(ids []bundle.NodeID) []view.Signed
	// Merge verifies the records and takes over those that are news. It
	// returns the news, which is what rumours pass on. from is the peer that
	// sent them, not who wrote them; in a rumour it is that peer's own word.
	Merge(from bundle.NodeID, records []view.Signed) (news []view.Signed)

	// TrustDigest returns the trust set in force (its timestamp version and
	// its digest, which is bundle.Sum of its bytes) and the digest of a set
	// that is evidence of a conflict with it, or zero. Replicas that choose
	// among several evidences must choose alike, such as the least digest.
	TrustDigest() (timestamp int64, digest, evidence bundle.Digest)
	// TrustSet returns the bytes of the set or evidence with this digest.
	TrustSet(bundle.Digest) ([]byte, bool)
	// OfferTrust hands over a set that a peer holds. It is unverified. It reports
	// whether the set has been dealt with, taken or not; one that could not be stored
	// comes again with the next exchange.
	OfferTrust(from bundle.NodeID, set []byte) (settled bool)
}

// Config is what Start needs. Start keeps a copy.
type Config struct {
	Name      string             // of this node; letters, digits, '-' and '.'
	Key       ed25519.PrivateKey // this node's identity
	Cluster   bundle.Digest      // the digest of the cluster's first root
	GossipKey []byte             // 32 bytes, shared by the cluster's agents
	// OtherGossipKey is one that peers may use as well: the next one, or the one before,
	// while the key is replaced. It may be nil.
	OtherGossipKey []byte
	Bind           string            // host:port, for both UDP and TCP; port 0 lets the kernel choose
	Advertise      string            // host:port that peers are told; empty: Bind. Port 0: the port of Bind
	Tags           map[string]string // shown to every member; few and short

	// Owners are whom Own is told of before anybody can claim a name, in this order.
	Owners []Owner

	Replica Replica
	Handler http.Handler // further requests between peers (see PeerID); may be nil
	// Query answers Serf queries of other members; may be nil. It may take
	// some time: it does not hold up anything but other queries.
	Query func(name string, payload []byte) []byte

	// Peers returns addresses to try, configured and remembered, in any order,
	// whenever this agent knows no live member, and one of them now and then
	// otherwise (so that rings that have lost sight of each other join again).
	// Nil: only Join joins. It is called on Gossip's own goroutine.
	Peers func() []string

	// MembersChanged and Conflict are told of events, on one goroutine of
	// Gossip's own; they should return soon. Both may be nil.
	MembersChanged func()
	Conflict       func(Conflict)
	// Exchanged is told with which node an exchange that this agent began has been completed:
	// what that node knew then is known here. It may be nil.
	Exchanged func(bundle.NodeID)

	SyncInterval   time.Duration // anti-entropy with a random live member; 0 turns it off (Join and announcements still exchange)
	RumourInterval time.Duration // a round of rumours; 0 turns rumours off
	RumourFanout   int           // peers told in a round
	RumourRounds   int           // rounds for which a record is told
	JoinBackoff    time.Duration // first wait between attempts to join; doubles
	JoinBackoffMax time.Duration
	RejoinInterval time.Duration // how often one of Peers is tried while not alone

	Network Network // nil: the operating system's sockets
	Log     *slog.Logger
}

// DefaultConfig returns the values measured to be right for rings of up to
// 10,000 nodes. Name, Key, Cluster, GossipKey, Bind and Replica are left to
// the caller.
func DefaultConfig() Config {
	return Config{
		SyncInterval:   10 * time.Second,
		RumourInterval: 500 * time.Millisecond,
		RumourFanout:   2,
		RumourRounds:   4,
		JoinBackoff:    500 * time.Millisecond,
		JoinBackoffMax: 15 * time.Second,
		RejoinInterval: time.Minute,
	}
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := checkName(c.Name); err != nil {
		errs = append(errs, err)
	}
	if len(c.Key) != ed25519.PrivateKeySize {
		bad("identity key has %d bytes: want an ed25519 private key of %d", len(c.Key), ed25519.PrivateKeySize)
	}
	if c.Cluster.IsZero() {
		bad("no cluster: want the digest of the cluster's first root")
	}
	if len(c.GossipKey) != gossipKeySize {
		bad("gossip key has %d bytes: want %d", len(c.GossipKey), gossipKeySize)
	}
	if len(c.OtherGossipKey) != 0 && len(c.OtherGossipKey) != gossipKeySize {
		bad("other gossip key has %d bytes: want %d, or none", len(c.OtherGossipKey), gossipKeySize)
	}
	if _, _, err := net.SplitHostPort(c.Bind); err != nil {
		bad("bind address %q: want host:port: %w", c.Bind, err)
	}
	if c.Advertise != "" {
		if host, _, err := net.SplitHostPort(c.Advertise); err != nil || host == "" {
			bad("advertised address %q: want host:port that peers can reach", c.Advertise)
		}
	}
	if err := checkTags(c.Tags); err != nil {
		errs = append(errs, err)
	}
	if c.Replica == nil {
		bad("no replica to keep in step with peers")
	}
	if c.SyncInterval < 0 || c.RumourInterval < 0 || c.RejoinInterval < 0 {
		bad("negative interval: sync %v, rumour %v, rejoin %v", c.SyncInterval, c.RumourInterval, c.RejoinInterval)
	}
	if c.RumourInterval > 0 && (c.RumourFanout < 1 || c.RumourRounds < 1) {
		bad("rumours to %d peers in %d rounds: want at least 1 of each, or a rumour interval of 0", c.RumourFanout, c.RumourRounds)
	}
	if c.Peers != nil && (c.JoinBackoff <= 0 || c.JoinBackoffMax < c.JoinBackoff) {
		bad("join back-off from %v to %v: want 0 < first <= last", c.JoinBackoff, c.JoinBackoffMax)
	}
	if c.Log == nil {
		bad("no logger")
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("gossip settings: %w", errors.Join(errs...))
}

// checkName is Serf's rule for node names, which Serf itself checks only
// after the sockets are open.
func checkName(name string) error {
	if name == "" || len(name) > maxNameBytes {
		return fmt.Errorf("node name %.140q: want 1 to %d bytes", name, maxNameBytes)
	}
	ok := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.'
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return !ok(r) }); i >= 0 {
		return fmt.Errorf("node name %q: want only letters, digits, '-' and '.'", name)
	}
	return nil
}

func checkTags(tags map[string]string) error {
	size := 0
	for k, v := range tags {
		if k == tagID || k == tagFormat {
			return fmt.Errorf("tag %q: the name is taken by moult itself", k)
		}
		size += len(k) + len(v)
	}
	if size > maxTagBytes {
		return fmt.Errorf("tags take %d bytes: want at most %d", size, maxTagBytes)
	}
	return nil
}
