package view

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"moult/store/bundle"
)

// ErrFull is a record of one node more than a view holds.
var ErrFull = errors.New("the view is full")

// ErrEquivocation is two different records that a node signed with one number.
var ErrEquivocation = errors.New("a node signed two different records with one number")

// Equivocation is evidence that a node broke its promise to number each of its
// records: both are validly signed. It may run twice (a copied data folder) or
// lie.
type Equivocation struct {
	Node        bundle.NodeID
	Seq         uint64
	Kept, Other Signed
}

// View is the CRDT of status records. It is not safe for concurrent use: one
// goroutine owns it, and gives others a Snapshot.
type View struct {
	now           Snapshot
	held          map[bundle.Digest]bool // the sums of the records in now
	memo          *Memo
	equivocations map[bundle.NodeID]Equivocation
	forgotten     map[bundle.NodeID]uint64
}

// Memo remembers what was signed or verified, for views of one process that are given the
// same records: the simulator's. Its zero value is empty; it grows without bound,
// and is not safe for concurrent use.
type Memo struct{ entries map[Signed]*entry }

// New returns an empty view. It verifies no record that is in memo, which may be nil.
func New(memo *Memo) *View {
	return &View{memo: memo, held: map[bundle.Digest]bool{}, equivocations: map[bundle.NodeID]Equivocation{}}
}

// Merge verifies records and keeps those that are newer than what the view
// has. It returns the nodes whose record has changed, sorted. The error joins
// what was wrong with single records: a refusal as by Open, ErrFull, or
// ErrEquivocation; the others have been merged all the same.
func (v *View) Merge(records ...Signed) (changed []bundle.NodeID, err error) {
	var problems []error
	touched := map[int]bool{}
	for _, s := range records {
		e, err := v.news(s)
		if err != nil && len(problems) < maxProblems {
			problems = append(problems, err)
		}
		if e != nil {
			v.put(e)
			changed = append(changed, e.stamp.Node)
			touched[bucketOf(e.stamp.Node)] = true
		}
	}
	for _, i := range slices.Sorted(maps.Keys(touched)) {
		v.now.buckets[i].rehash()
	}
	slices.SortFunc(changed, compareID)
	return slices.Compact(changed), errors.Join(problems...)
}

// Forget takes the place of what was forgotten before: of each node the records up to a
// number are dropped, and none of them is taken again. It returns the nodes that were
// dropped, sorted. The caller must not change the map any more.
func (v *View) Forget(upTo map[bundle.NodeID]uint64) (dropped []bundle.NodeID) {
	v.forgotten = upTo
	touched := map[int]bool{}
	for _, id := range slices.SortedFunc(maps.Keys(upTo), compareID) {
		if e, known := v.now.find(id); known && e.stamp.Seq <= upTo[id] {
			v.drop(id)
			dropped = append(dropped, id)
			touched[bucketOf(id)] = true
		}
	}
	for _, i := range slices.Sorted(maps.Keys(touched)) {
		if b := v.now.buckets[i]; b != nil {
			b.rehash()
		}
	}
	return dropped
}

// Drop takes a node out to make room for another. Unlike one that is forgotten it may come
// again.
func (v *View) Drop(id bundle.NodeID) {
	if _, known := v.now.find(id); known {
		v.drop(id)
		if b := v.now.buckets[bucketOf(id)]; b != nil {
			b.rehash()
		}
	}
}

// put and drop change a node's record; its bucket is to be hashed anew.
func (v *View) put(e *entry) {
	if old, known := v.now.find(e.stamp.Node); known {
		delete(v.held, old.stamp.Sum)
	}
	v.now.put(e)
	v.held[e.stamp.Sum] = true
}

func (v *View) drop(id bundle.NodeID) {
	if old, known := v.now.find(id); known {
		delete(v.held, old.stamp.Sum)
	}
	v.now.drop(id)
}

// Forgotten is up to which number a node's records are forgotten; 0 for none.
func (v *View) Forgotten(id bundle.NodeID) uint64 { return v.forgotten[id] }

// news returns the entry to be put into the view for s, or nil. Records that are held are
// not even read, and those that could change nothing not verified: that is where the time
// goes, since each record comes from several peers.
func (v *View) news(s Signed) (*entry, error) {
	e, verified := v.memo.find(s)
	if !verified {
		sum := s.Sum()
		if v.held[sum] {
			return nil, nil
		}
		r, err := s.read()
		if err != nil {
			return nil, err
		}
		e = &entry{stamp: Stamp{Node: r.Node, Seq: r.Seq, Sum: sum}, signed: s, record: r}
	}
	stamp := e.stamp
	have, known := v.now.find(stamp.Node)
	if upTo, ok := v.forgotten[stamp.Node]; ok && stamp.Seq <= upTo {
		return nil, nil
	}
	if known && (have.stamp == stamp || stamp.Seq < have.stamp.Seq) {
		return nil, nil
	}
	if !verified {
		if err := s.verify(e.record); err != nil {
			return nil, err
		}
		v.memo.add(e)
	}
	if !known && v.now.n >= MaxNodes {
		return nil, fmt.Errorf("%w: it has %d nodes: node %s (%s) is left out", ErrFull, v.now.n, stamp.Node.Short(), e.record.Name)
	}
	if !known || !have.stamp.sameNumber(stamp) {
		return e, nil
	}
	kept, other := e, have
	if have.stamp.newerThan(stamp) {
		kept, other = have, e
	}
	err := v.equivocated(kept, other)
	if kept == have {
		return nil, err
	}
	return e, err
}

func (m *Memo) find(s Signed) (*entry, bool) {
	if m == nil {
		return nil, false
	}
	e, ok := m.entries[s]
	return e, ok
}

// Sign is as [Sign], and remembers the record as it was signed: views neither read nor verify it.
func (m *Memo) Sign(key ed25519.PrivateKey, r Record) (Signed, error) {
	s, r, err := signRecord(key, r)
	if err == nil {
		m.add(&entry{stamp: Stamp{Node: r.Node, Seq: r.Seq, Sum: s.Sum()}, signed: s, record: r})
	}
	return s, err
}

func (m *Memo) add(e *entry) {
	if m == nil {
		return
	}
	if m.entries == nil {
		m.entries = map[Signed]*entry{}
	}
	m.entries[e.signed] = e
}

// equivocated keeps the evidence: the newest pair of each node.
func (v *View) equivocated(kept, other *entry) error {
	q := Equivocation{Node: kept.stamp.Node, Seq: kept.stamp.Seq, Kept: kept.signed, Other: other.signed}
	if _, ok := v.equivocations[q.Node]; ok || len(v.equivocations) < MaxEquivocations {
		v.equivocations[q.Node] = q
	}
	return fmt.Errorf("%w: node %s (%s), number %d: is it running twice, from a copied data folder?", ErrEquivocation, q.Node.Short(), kept.record.Name, q.Seq)
}

// Equivocations returns the evidence that this view has met, sorted by node.
// What a view has met depends on what it was given and in which order; it is
// not part of what converges.
func (v *View) Equivocations() []Equivocation {
	return slices.SortedFunc(maps.Values(v.equivocations), func(a, b Equivocation) int { return compareID(a.Node, b.Node) })
}

// Snapshot returns the view as it is now. It costs 4 KiB, whatever the number
// of nodes, and never changes.
func (v *View) Snapshot() *Snapshot {
	s := v.now
	return &s
}

// Get returns the record of a node.
func (v *View) Get(id bundle.NodeID) (Record, bool) { return v.now.Get(id) }

// Signed returns the record of a node as it was signed.
func (v *View) Signed(id bundle.NodeID) (Signed, bool) { return v.now.Signed(id) }

// Len returns the number of nodes.
func (v *View) Len() int { return v.now.Len() }

// All yields every record, sorted by node. The view may be changed meanwhile:
// what is yielded is the view as it was when All was called.
func (v *View) All() iter.Seq[Record] { return v.Snapshot().All() }

// AllSigned yields every record as it was signed, likewise.
func (v *View) AllSigned() iter.Seq[Signed] {
	now := v.Snapshot()
	return func(yield func(Signed) bool) { now.entries(func(e *entry) bool { return yield(e.signed) }) }
}

// Buckets returns the hashes of the view's buckets (see Snapshot.Buckets).
func (v *View) Buckets() []uint64 { return v.now.Buckets() }

// Stamps returns what is known of each node of a bucket (see Snapshot.Stamps).
func (v *View) Stamps(bucket int) []Stamp { return v.now.Stamps(bucket) }

// A Stamp says which record of a node a view holds.
type Stamp struct {
	Node bundle.NodeID `json:"node"`
	Seq  uint64        `json:"seq"`
	Sum  bundle.Digest `json:"sum"`
}

// newerThan is the total order of the records of one node.
func (s Stamp) newerThan(o Stamp) bool {
	return cmp.Or(cmp.Compare(s.Seq, o.Seq), bytes.Compare(s.Sum[:], o.Sum[:])) > 0
}

func (s Stamp) sameNumber(o Stamp) bool { return s.Seq == o.Seq }

func compareID(a, b bundle.NodeID) int { return bytes.Compare(a[:], b[:]) }
