package gossip

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"moult/gossip/view"
	"moult/store/bundle"
)

// Paths of requests between peers.
const (
	pathHello   = "/moult/v1/hello"
	pathDigest  = "/moult/v1/sync/digest"
	pathRecords = "/moult/v1/sync/records"
	pathTrust   = "/moult/v1/sync/trust"
)

type helloRequest struct {
	Name string `json:"name"`
	Addr string `json:"addr"`
	// Also is where somebody else has proven the callee's own key.
	Also string `json:"also,omitempty"`
}

type helloReply struct {
	Name string `json:"name"`
	Addr string `json:"addr,omitempty"` // what it says of itself; older agents do not
}

// heads says which trust metadata a peer holds.
type heads struct {
	Timestamp int64         `json:"timestamp"`
	Digest    bundle.Digest `json:"digest"`
	Evidence  bundle.Digest `json:"evidence"`
}

type digestRequest struct {
	Heads   heads  `json:"heads"`
	Buckets []byte `json:"buckets"` // 8 bytes each, big-endian
}

// digestReply holds the answering peer's stamps in buckets that differ: all
// such buckets, or, when More is set, the first ones.
type digestReply struct {
	Heads   heads        `json:"heads"`
	Buckets []int        `json:"buckets"`
	Stamps  []view.Stamp `json:"stamps"`
	More    bool         `json:"more"`
}

type recordsRequest struct {
	Want []bundle.NodeID `json:"want"`
	Push []view.Signed   `json:"push"`
}

type recordsReply struct {
	Records []view.Signed `json:"records"`
}

func packBuckets(hashes []uint64) []byte {
	b := make([]byte, 0, 8*len(hashes))
	for _, h := range hashes {
		b = binary.BigEndian.AppendUint64(b, h)
	}
	return b
}

func unpackBuckets(packed []byte) ([]uint64, error) {
	if len(packed) != 8*view.NumBuckets {
		return nil, fmt.Errorf("%d bytes of bucket hashes: want %d", len(packed), 8*view.NumBuckets)
	}
	var out []uint64
	for b := range slices.Chunk(packed, 8) {
		out = append(out, binary.BigEndian.Uint64(b))
	}
	return out, nil
}

// A delta is what two peers lack of each other.
type delta struct{ want, push []bundle.NodeID }

func (d delta) empty() bool { return len(d.want)+len(d.push) == 0 }

// diff compares stamps of the same buckets. Of two records the one with the
// greater sequence number goes over; where only the bytes differ, both do, so
// that both peers see that the writer has said two things.
func diff(mine, theirs []view.Stamp) delta {
	known := make(map[bundle.NodeID]view.Stamp, len(mine))
	for _, s := range mine {
		known[s.Node] = s
	}
	var d delta
	for _, t := range theirs {
		m, ok := known[t.Node]
		delete(known, t.Node)
		switch {
		case !ok || t.Seq > m.Seq:
			d.want = append(d.want, t.Node)
		case t.Seq < m.Seq:
			d.push = append(d.push, t.Node)
		case t.Sum != m.Sum:
			d.want = append(d.want, t.Node)
			d.push = append(d.push, t.Node)
		}
	}
	for _, m := range mine {
		if _, ok := known[m.Node]; ok {
			d.push = append(d.push, m.Node)
		}
	}
	return d
}

// trustDelta decides which trust sets two peers hand over: the newer head,
// both of two heads with one number (they may be evidence of a conflict), and
// evidence that the other does not hold.
func trustDelta(mine, theirs heads) (pull, push []bundle.Digest) {
	lacks := func(d bundle.Digest, h heads) bool { return !d.IsZero() && d != h.Digest && d != h.Evidence }
	if lacks(theirs.Digest, mine) && theirs.Timestamp >= mine.Timestamp {
		pull = append(pull, theirs.Digest)
	}
	if lacks(theirs.Evidence, mine) {
		pull = append(pull, theirs.Evidence)
	}
	if lacks(mine.Digest, theirs) && mine.Timestamp >= theirs.Timestamp {
		push = append(push, mine.Digest)
	}
	if lacks(mine.Evidence, theirs) {
		push = append(push, mine.Evidence)
	}
	return pull, push
}

// stampsOf answers with the stamps of some buckets, and ends after the bucket
// that reaches the limit. It returns how many buckets are in the answer.
func stampsOf(r Replica, buckets []int, limit int) (stamps []view.Stamp, done int) {
	for done < len(buckets) && len(stamps) < limit {
		stamps = append(stamps, r.Stamps(buckets[done:done+1])...)
		done++
	}
	return stamps, done
}

// recordPages cuts records into pages that a request may carry.
func recordPages(records []view.Signed) [][]view.Signed {
	var pages [][]view.Signed
	bytes := 0
	for _, r := range records {
		n := r.Size()
		if last := len(pages) - 1; last < 0 || len(pages[last]) == maxRecordsPerPage || bytes+n > maxPageBytes {
			pages = append(pages, nil)
			bytes = 0
		}
		bytes += n
		pages[len(pages)-1] = append(pages[len(pages)-1], r)
	}
	return pages
}

func idPages(ids []bundle.NodeID) [][]bundle.NodeID {
	return slices.Collect(slices.Chunk(ids, maxRecordsPerPage))
}

// refusedSets remembers which trust sets have gone over, so that a set that
// one side does not accept is not sent anew every few seconds. What was in vain
// under one head of the receiver may be welcome under the next.
type refusedSets struct {
	mu   sync.Mutex // protects what follows
	seen map[refusedSet]time.Time
}

type refusedSet struct {
	peer      bundle.NodeID // zero: pulled, from anyone
	set, head bundle.Digest
}

func newRefusedSets() *refusedSets { return &refusedSets{seen: map[refusedSet]time.Time{}} }

// has reports whether a transfer was made lately.
func (r *refusedSets) has(s refusedSet, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.seen[s]
	return ok && now.Sub(at) < refusedSetTime
}

// note remembers a transfer that was made.
func (r *refusedSets) note(s refusedSet, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) >= maxRefusedSets {
		clear(r.seen)
	}
	r.seen[s] = now
}
