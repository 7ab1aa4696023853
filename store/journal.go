package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"moult/store/bundle"
)

// Entry is one entry of the journal.
type Entry struct {
	// Seq counts from 1 without gaps.
	Seq uint64
	// Prev is the Hash of the entry before; zero for the first of all.
	Prev bundle.Digest
	// Hash covers the rest of the entry, and so by Prev all that came before.
	Hash bundle.Digest
	Kind string
	Data []byte
}

const entryDomain = "moult journal entry 1\n"

func (e Entry) sum() bundle.Digest {
	h := sha256.New()
	h.Write([]byte(entryDomain))
	var n [8]byte
	h.Write(binary.BigEndian.AppendUint64(n[:0], e.Seq))
	h.Write(e.Prev[:])
	h.Write(binary.BigEndian.AppendUint64(n[:0], uint64(len(e.Kind))))
	h.Write([]byte(e.Kind))
	h.Write(e.Data)
	return bundle.Digest(h.Sum(nil))
}

// follow returns the entry that continues the chain after prev.
func follow(prev anchor, kind string, data []byte) Entry {
	e := Entry{Seq: prev.Seq + 1, Prev: prev.Hash, Kind: kind, Data: bytes.Clone(data)}
	e.Hash = e.sum()
	return e
}

// The value of an entry in the database: a format byte, Prev, Hash, the length
// of Kind in two bytes, Kind, Data. Seq is the key.
const (
	// JournalFormat is the format that this code writes and the newest it reads.
	JournalFormat = 1

	entryHeader = 1 + 2*len(bundle.Digest{}) + 2
)

func encodeEntry(e Entry) []byte {
	b := make([]byte, 0, entryHeader+len(e.Kind)+len(e.Data))
	b = append(b, JournalFormat)
	b = append(b, e.Prev[:]...)
	b = append(b, e.Hash[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.Kind)))
	b = append(b, e.Kind...)
	return append(b, e.Data...)
}

// decodeEntry returns an entry whose hash has been checked. It copies b.
func decodeEntry(seq uint64, b []byte) (Entry, error) {
	if len(b) < entryHeader {
		return Entry{}, fmt.Errorf("journal entry %d: %d bytes are too few: %w", seq, len(b), ErrDamaged)
	}
	if b[0] != JournalFormat {
		return Entry{}, fmt.Errorf("journal entry %d: unknown format %d: %w", seq, b[0], ErrDamaged)
	}
	e := Entry{Seq: seq}
	rest := b[1:]
	rest = rest[copy(e.Prev[:], rest):]
	rest = rest[copy(e.Hash[:], rest):]
	n := int(binary.BigEndian.Uint16(rest))
	rest = rest[2:]
	if n > len(rest) {
		return Entry{}, fmt.Errorf("journal entry %d: its kind is cut off: %w", seq, ErrDamaged)
	}
	e.Kind, e.Data = string(rest[:n]), bytes.Clone(rest[n:])
	if e.sum() != e.Hash {
		return Entry{}, fmt.Errorf("journal entry %d: its hash does not match its content: %w", seq, ErrDamaged)
	}
	return e, nil
}

var journalPrefix = []byte("j/")

func journalKey(seq uint64) []byte {
	return binary.BigEndian.AppendUint64(bytes.Clone(journalPrefix), seq)
}

func journalSeq(key []byte) (uint64, error) {
	if len(key) != len(journalPrefix)+8 {
		return 0, fmt.Errorf("journal key %x: %w", key, ErrDamaged)
	}
	return binary.BigEndian.Uint64(key[len(journalPrefix):]), nil
}

// Append adds one entry to the journal. When it returns nil, the entry and the
// floor that names it are durable. After an error other than ErrNoSpace the
// entry may or may not be there when the store is opened again.
func (s *Store) Append(kind string, data []byte) (Entry, error) {
	var e Entry
	err := s.Update(func(tx *Tx) (err error) {
		e, err = tx.Append(kind, data)
		return err
	})
	if err != nil {
		return Entry{}, err
	}
	return e, nil
}

// Journal calls fn for each entry from sequence number from on, oldest first,
// and verifies the chain as it reads, up to the entry that the floor names.
// Entries that are no longer kept are passed over, so the first may have a
// greater number than from. The entries are fn's to keep. An error that wraps
// ErrDamaged means that the journal on disk is not what was written: open the
// store again. fn must not close the store.
func (s *Store) Journal(from uint64, fn func(Entry) error) error {
	done, err := s.enter()
	if err != nil {
		return err
	}
	defer done()
	return s.db.View(func(txn *badger.Txn) error {
		m, ok, err := getMark(txn)
		if err != nil || !ok {
			return errors.Join(err, fmt.Errorf("journal: the database has no mark: %w", ErrDamaged))
		}
		return walkJournal(txn, m, from, fn)
	})
}

// walkJournal verifies the chain between m.Start and the entry that m.Floor
// names. Below from it reads only the entry before, whose hash it needs.
func walkJournal(txn *badger.Txn, m mark, from uint64, fn func(Entry) error) error {
	prev := m.Start
	if from > prev.Seq+1 && from-1 <= m.Floor.JournalSeq {
		e, err := getEntry(txn, from-1)
		if err != nil {
			return err
		}
		prev = anchor{e.Seq, e.Hash}
	}
	if from > m.Floor.JournalSeq+1 {
		return nil
	}
	it := txn.NewIterator(badger.IteratorOptions{PrefetchValues: false, Prefix: journalPrefix})
	defer it.Close()
	for it.Seek(journalKey(prev.Seq + 1)); it.Valid(); it.Next() {
		seq, err := journalSeq(it.Item().Key())
		if err != nil {
			return err
		}
		var e Entry
		if err := it.Item().Value(func(b []byte) (err error) { e, err = decodeEntry(seq, b); return err }); err != nil {
			return fmt.Errorf("journal entry %d: %w", seq, err)
		}
		if e.Seq != prev.Seq+1 || e.Prev != prev.Hash {
			return fmt.Errorf("journal entry %d does not follow entry %d: %w", e.Seq, prev.Seq, ErrDamaged)
		}
		prev = anchor{e.Seq, e.Hash}
		if err := fn(e); err != nil {
			return err
		}
	}
	if end := (anchor{m.Floor.JournalSeq, m.Floor.JournalHash}); prev != end {
		return fmt.Errorf("journal ends at entry %d (%s), but %d (%s) was written: %w",
			prev.Seq, prev.Hash.Short(), end.Seq, end.Hash.Short(), ErrDamaged)
	}
	return nil
}

func getEntry(txn *badger.Txn, seq uint64) (Entry, error) {
	item, err := txn.Get(journalKey(seq))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return Entry{}, fmt.Errorf("journal entry %d is missing: %w", seq, ErrDamaged)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("journal entry %d: %w", seq, err)
	}
	var e Entry
	err = item.Value(func(b []byte) (err error) { e, err = decodeEntry(seq, b); return err })
	return e, err
}
