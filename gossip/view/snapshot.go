package view

import (
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"slices"

	"moult/store/bundle"
)

// NumBuckets is the number of buckets of a view. The bucket of a node is given
// by the first bits of its identity, so it is part of the protocol.
const NumBuckets = 512

func bucketOf(id bundle.NodeID) int {
	return int(binary.BigEndian.Uint16(id[:])) * NumBuckets >> 16
}

// Snapshot is a view as it was at one moment. It is immutable and safe for
// concurrent use.
type Snapshot struct {
	buckets [NumBuckets]*bucket // nil: empty
	n       int
}

// bucket is immutable once the Merge that made it has returned: the next one
// that changes it makes a copy. So a snapshot shares all buckets.
type bucket struct {
	entries []*entry // sorted by node
	hash    uint64   // of their stamps
}

// entry is one node's newest record. It is immutable.
type entry struct {
	stamp  Stamp
	signed Signed
	record Record
}

func (b *bucket) search(id bundle.NodeID) (int, bool) {
	if b == nil {
		return 0, false
	}
	return slices.BinarySearchFunc(b.entries, id, func(e *entry, id bundle.NodeID) int { return compareID(e.stamp.Node, id) })
}

// rehash computes the hash of a bucket anew. A sum or xor of the entries'
// hashes could be updated without looking at the rest, but a node that may
// pick its own records could make such a sum come out as it likes, and so hide
// that another node's record differs. A bucket has 20 entries in a cluster of
// 10,000, and Merge hashes each touched bucket once: next to one signature's
// verification it costs nothing. 64 bits suffice: a collision hides a
// difference only until the bucket changes again.
func (b *bucket) rehash() {
	h := sha256.New()
	for _, e := range b.entries {
		h.Write(e.stamp.Sum[:]) // of the whole record, so of the node and the number too
	}
	b.hash = binary.BigEndian.Uint64(h.Sum(nil))
}

// put enters e, without rehashing. Only the view that owns s calls it.
func (s *Snapshot) put(e *entry) {
	i := bucketOf(e.stamp.Node)
	old := s.buckets[i]
	next := &bucket{}
	if old != nil {
		next.entries = slices.Clone(old.entries)
	}
	at, found := next.search(e.stamp.Node)
	if found {
		next.entries[at] = e
	} else {
		next.entries = slices.Insert(next.entries, at, e)
		s.n++
	}
	s.buckets[i] = next
}

// drop takes a node's entry out, without rehashing. Only the view that owns s calls it.
func (s *Snapshot) drop(id bundle.NodeID) {
	i := bucketOf(id)
	next := &bucket{entries: slices.Clone(s.buckets[i].entries)}
	at, found := next.search(id)
	if !found {
		return
	}
	next.entries = slices.Delete(next.entries, at, at+1)
	s.n--
	s.buckets[i] = next
	if len(next.entries) == 0 {
		s.buckets[i] = nil // the hash of an empty bucket is 0
	}
}

func (s *Snapshot) find(id bundle.NodeID) (*entry, bool) {
	b := s.buckets[bucketOf(id)]
	at, found := b.search(id)
	if !found {
		return nil, false
	}
	return b.entries[at], true
}

// Get returns the record of a node. It shares maps and slices with the view.
func (s *Snapshot) Get(id bundle.NodeID) (Record, bool) {
	e, ok := s.find(id)
	if !ok {
		return Record{}, false
	}
	return e.record, true
}

// Signed returns the record of a node as it was signed.
func (s *Snapshot) Signed(id bundle.NodeID) (Signed, bool) {
	e, ok := s.find(id)
	if !ok {
		return Signed{}, false
	}
	return e.signed, true
}

// Len returns the number of nodes.
func (s *Snapshot) Len() int { return s.n }

// All yields every record, sorted by node.
func (s *Snapshot) All() iter.Seq[Record] {
	return func(yield func(Record) bool) { s.entries(func(e *entry) bool { return yield(e.record) }) }
}

func (s *Snapshot) entries(yield func(*entry) bool) {
	for _, b := range s.buckets {
		if b == nil {
			continue
		}
		for _, e := range b.entries {
			if !yield(e) {
				return
			}
		}
	}
}

// Buckets returns the hashes of the NumBuckets buckets. Views with equal
// hashes hold the same records. The hash of an empty bucket is 0.
func (s *Snapshot) Buckets() []uint64 {
	hashes := make([]uint64, NumBuckets)
	for i, b := range s.buckets {
		if b != nil {
			hashes[i] = b.hash
		}
	}
	return hashes
}

// DifferentBuckets returns the numbers of the buckets whose hashes differ, in
// order. theirs comes from a peer: where it lacks a bucket, that differs.
func DifferentBuckets(ours, theirs []uint64) []int {
	var differ []int
	for i, hash := range ours {
		if i >= len(theirs) || theirs[i] != hash {
			differ = append(differ, i)
		}
	}
	return differ
}

// Stamps returns what is known of each node of a bucket, sorted by node. A
// number that is no bucket's has none.
func (s *Snapshot) Stamps(bucket int) []Stamp {
	if bucket < 0 || bucket >= NumBuckets || s.buckets[bucket] == nil {
		return nil
	}
	stamps := make([]Stamp, 0, len(s.buckets[bucket].entries))
	for _, e := range s.buckets[bucket].entries {
		stamps = append(stamps, e.stamp)
	}
	return stamps
}

// Missing compares a bucket with a peer's stamps of it. send holds the records
// that the peer lacks or has older, and want names the nodes of which the peer
// has newer ones; both are sorted by node. Stamps of other buckets, and those
// after the first for a node, are ignored.
func (s *Snapshot) Missing(bucket int, theirs []Stamp) (send []Signed, want []bundle.NodeID) {
	if bucket < 0 || bucket >= NumBuckets {
		return nil, nil
	}
	told := make(map[bundle.NodeID]Stamp, len(theirs))
	for _, t := range theirs {
		if _, again := told[t.Node]; again || bucketOf(t.Node) != bucket {
			continue
		}
		told[t.Node] = t
		if have, ok := s.find(t.Node); !ok || t.newerThan(have.stamp) {
			want = append(want, t.Node)
		}
	}
	if b := s.buckets[bucket]; b != nil {
		for _, e := range b.entries {
			if t, ok := told[e.stamp.Node]; !ok || e.stamp.newerThan(t) {
				send = append(send, e.signed)
			}
		}
	}
	slices.SortFunc(want, compareID)
	return send, want
}
