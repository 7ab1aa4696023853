package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// Tx is one atomic batch of writes: documents, journal entries and the floor
// together. It reads its own writes. It is valid only inside Update's function
// and only on that goroutine.
type Tx struct {
	txn   *badger.Txn
	next  mark
	keep  uint64
	bytes int
	items int
}

// Put writes one document. Buckets are 1 to MaxName bytes without NUL, keys 1
// to MaxKey bytes, values at most MaxValue bytes. It is durable when it returns
// nil.
func (s *Store) Put(bucket, key string, value []byte) error {
	return s.Update(func(tx *Tx) error { return tx.Put(bucket, key, value) })
}

// Delete removes one document, if it is there.
func (s *Store) Delete(bucket, key string) error {
	return s.Update(func(tx *Tx) error { return tx.Delete(bucket, key) })
}

// Get returns a document, which is the caller's, and whether it is there.
func (s *Store) Get(bucket, key string) (value []byte, ok bool, err error) {
	done, err := s.enter()
	if err != nil {
		return nil, false, err
	}
	defer done()
	err = s.db.View(func(txn *badger.Txn) error {
		value, ok, err = getDocument(txn, bucket, key)
		return err
	})
	return value, ok, err
}

// Each calls fn for every document of a bucket in the order of the keys, as
// they were when Each was called. The values are fn's. fn may write to the
// store, and must not close it.
func (s *Store) Each(bucket string, fn func(key string, value []byte) error) error {
	done, err := s.enter()
	if err != nil {
		return err
	}
	defer done()
	return s.db.View(func(txn *badger.Txn) error { return eachDocument(txn, bucket, fn) })
}

// Get is Store.Get inside the batch.
func (t *Tx) Get(bucket, key string) ([]byte, bool, error) { return getDocument(t.txn, bucket, key) }

// Each is Store.Each inside the batch. fn must not write to the bucket.
func (t *Tx) Each(bucket string, fn func(key string, value []byte) error) error {
	return eachDocument(t.txn, bucket, fn)
}

// Put is Store.Put inside the batch.
func (t *Tx) Put(bucket, key string, value []byte) error {
	k, err := documentKey(bucket, key)
	if err != nil {
		return err
	}
	if len(value) > MaxValue {
		return fmt.Errorf("document %s/%s: %d bytes, at most %d are stored; keep it as a blob", bucket, key, len(value), MaxValue)
	}
	return t.set(k, bytes.Clone(value))
}

// Delete is Store.Delete inside the batch.
func (t *Tx) Delete(bucket, key string) error {
	k, err := documentKey(bucket, key)
	if err != nil {
		return err
	}
	return t.remove(k)
}

// Append is Store.Append inside the batch: the entry is in the journal iff the
// batch is durable.
func (t *Tx) Append(kind string, data []byte) (Entry, error) {
	if kind == "" || len(kind) > MaxName {
		return Entry{}, fmt.Errorf("journal entry: kind %.80q: want 1 to %d bytes", kind, MaxName)
	}
	if len(data) > MaxValue {
		return Entry{}, fmt.Errorf("journal entry %s: %d bytes, at most %d are stored", kind, len(data), MaxValue)
	}
	f := &t.next.Floor
	e := follow(anchor{f.JournalSeq, f.JournalHash}, kind, data)
	if err := t.set(journalKey(e.Seq), encodeEntry(e)); err != nil {
		return Entry{}, err
	}
	f.JournalSeq, f.JournalHash = e.Seq, e.Hash
	return e, t.trim()
}

// trim drops the oldest entries when there are an eighth more than are to be
// kept, and moves the start of the chain with them.
func (t *Tx) trim() error {
	first, last := t.next.Start.Seq+1, t.next.Floor.JournalSeq
	if n := last - first + 1; n <= t.keep+t.keep/8 {
		return nil
	}
	stop := last - t.keep
	// A large backlog goes in several batches.
	stop = min(stop, first+MaxBatchItems/2)
	e, err := getEntry(t.txn, stop)
	if err != nil {
		return err
	}
	for seq := first; seq <= stop; seq++ {
		if err := t.txn.Delete(journalKey(seq)); err != nil {
			return fmt.Errorf("trim the journal: %w", err)
		}
	}
	t.next.Start = anchor{e.Seq, e.Hash}
	return nil
}

// Raise is Store.Raise inside the batch.
func (t *Tx) Raise(fn func(*Floor)) error {
	f := t.next.Floor
	fn(&f)
	if f.JournalSeq != t.next.Floor.JournalSeq || f.JournalHash != t.next.Floor.JournalHash {
		return errors.New("floor: the journal's end is raised by Append alone")
	}
	if err := t.next.Floor.lowered(f); err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	if f != t.next.Floor {
		t.next.Floor = f
		t.items++
	}
	return nil
}

func (t *Tx) set(key, value []byte) error {
	if err := t.count(len(key) + len(value)); err != nil {
		return err
	}
	return t.txn.Set(key, value)
}

func (t *Tx) remove(key []byte) error {
	if err := t.count(len(key)); err != nil {
		return err
	}
	return t.txn.Delete(key)
}

func (t *Tx) count(n int) error {
	t.items++
	t.bytes += n
	if t.items > MaxBatchItems || t.bytes > MaxBatch {
		return fmt.Errorf("batch of %d writes and %d bytes: at most %d and %d are written at once; split it",
			t.items, t.bytes, MaxBatchItems, MaxBatch)
	}
	return nil
}

const documentPrefix = "d/"

func bucketPrefix(bucket string) ([]byte, error) {
	if bucket == "" || len(bucket) > MaxName || strings.ContainsRune(bucket, 0) {
		return nil, fmt.Errorf("bucket %.80q: want 1 to %d bytes without NUL", bucket, MaxName)
	}
	return []byte(documentPrefix + bucket + "\x00"), nil
}

func documentKey(bucket, key string) ([]byte, error) {
	p, err := bucketPrefix(bucket)
	if err != nil {
		return nil, err
	}
	if key == "" || len(key) > MaxKey {
		return nil, fmt.Errorf("document %s/%.80q: want a key of 1 to %d bytes", bucket, key, MaxKey)
	}
	return append(p, key...), nil
}

func getDocument(txn *badger.Txn, bucket, key string) ([]byte, bool, error) {
	k, err := documentKey(bucket, key)
	if err != nil {
		return nil, false, err
	}
	b, ok, err := getValue(txn, k)
	if err != nil {
		return nil, false, fmt.Errorf("read document %s/%s: %w", bucket, key, err)
	}
	return b, ok, nil
}

func eachDocument(txn *badger.Txn, bucket string, fn func(string, []byte) error) error {
	p, err := bucketPrefix(bucket)
	if err != nil {
		return err
	}
	it := txn.NewIterator(badger.IteratorOptions{PrefetchValues: false, Prefix: p})
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		key := string(it.Item().Key()[len(p):])
		value, err := it.Item().ValueCopy(nil)
		if err != nil {
			return fmt.Errorf("read document %s/%s: %w", bucket, key, err)
		}
		if err := fn(key, value); err != nil {
			return err
		}
	}
	return nil
}

func getValue(txn *badger.Txn, key []byte) ([]byte, bool, error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	b, err := item.ValueCopy(nil)
	return b, err == nil, err
}

// What the store itself keeps in the database.
var (
	markKey   = []byte("m/mark")
	damageKey = []byte("m/damage")
)

// getMark returns false where the database holds none, which only a database
// without any transaction does.
func getMark(txn *badger.Txn) (mark, bool, error) {
	b, ok, err := getValue(txn, markKey)
	if err != nil || !ok {
		return mark{}, false, err
	}
	m, err := decodeMark(b)
	if err != nil {
		return mark{}, false, fmt.Errorf("the database's copy of the floor: %w", err)
	}
	return m, true, nil
}

func getDamage(txn *badger.Txn) (*Damage, error) {
	b, ok, err := getValue(txn, damageKey)
	if err != nil || !ok {
		return nil, err
	}
	var d Damage
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("the database's note of damage: %w", err)
	}
	return &d, nil
}
