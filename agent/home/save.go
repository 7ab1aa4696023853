package home

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"moult/agent/control"
	"moult/agent/node"
	"moult/agent/upgrade"
	"moult/store"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Buckets and keys of the store's documents, and kinds of its journal's entries.
const (
	bucketTrust    = "trust"
	keySet         = "set"
	keyEvidence    = "evidence"
	keyEnrolment   = "enrolment"
	bucketFrozen   = "frozen" // release -> the manifest held when it was frozen
	bucketOrders   = "orders" // release -> the rollout order in force here
	bucketMachine  = "machine"
	keyState       = "state"
	keyAnswering   = "answering"
	keyObserved    = "observed"
	keyFinalizing  = "finalizing" // for how long a release has been as it must be to be finalized
	keyAgents      = "agents"     // that the node was to have
	bucketView     = "view"
	bucketSeen     = "seen" // node -> what was seen of its past
	bucketPeers    = "peers"
	bucketNames    = "names" // node -> the name that is its
	journalUpgrade = "upgrade"
	journalTrust   = "trust"
)

// Beside is what the agent adds to a Save.
type Beside struct {
	// InForce and Evidence are the digests of the blobs in which signed metadata are kept; zero
	// for what has not changed.
	InForce, Evidence bundle.Digest
	// Signed are the documents that the metadata bring into force, and Log is what the software
	// wrote last, where it has failed: both are for History alone.
	Signed []control.HistorySigned
	Log    []string
}

// PutSet keeps a set as a blob, for it may be too long for a document, and returns the
// digest of that.
func (h *Home) PutSet(v *trust.Verified) (bundle.Digest, error) {
	raw, err := v.Set().Marshal()
	if err != nil {
		return bundle.Digest{}, err
	}
	ref, err := h.Depot.PutBlob(raw)
	return ref.Digest, err
}

// SaveEvidence names the set that contradicts others, by itself.
func (h *Home) SaveEvidence(blob bundle.Digest) error {
	return h.Store.Put(bucketTrust, keyEvidence, []byte(blob.String()))
}

// Save makes a Save durable: all of it or nothing.
func (h *Home) Save(s node.Save, b Beside) error {
	trusted := map[string]bundle.Digest{}
	for key, blob := range map[string]bundle.Digest{keySet: b.InForce, keyEvidence: b.Evidence} {
		if !blob.IsZero() {
			trusted[key] = blob
		}
	}
	if s.State == nil && s.Answering == nil && s.Observed == nil && s.Agents == nil && len(trusted)+len(s.Frozen)+len(s.Bound) == 0 {
		return h.Store.Raise(func(f *store.Floor) { raise(f, s.Floor) })
	}
	frozen, bound := byKey(s.Frozen), byKey(s.Bound)
	if err := errors.Join(h.spill(bucketFrozen, frozen), h.spill(bucketOrders, bound)); err != nil {
		return err
	}
	return h.Store.Update(func(tx *store.Tx) error {
		return errors.Join(
			h.putState(tx, s.State, b.Log),
			putMachine(tx, keyAnswering, s.Answering),
			putMachine(tx, keyFinalizing, s.Observed),
			putMachine(tx, keyAgents, s.Agents),
			putDigests(tx, bucketTrust, trusted),
			putDigests(tx, bucketFrozen, frozen),
			putDigests(tx, bucketOrders, bound),
			h.appendTrust(tx, s.Metadata, b.Signed),
			tx.Raise(func(f *store.Floor) { raise(f, s.Floor) }),
		)
	})
}

// spill writes, and takes out of all, what is too much for one batch. It is what keeps
// the node from doing things, so it may be durable before the rest.
func (h *Home) spill(bucket string, all map[string]bundle.Digest) error {
	for len(all) > digestsPerBatch {
		part := map[string]bundle.Digest{}
		for key, d := range all {
			if len(part) == digestsPerBatch {
				break
			}
			part[key] = d
			delete(all, key)
		}
		if err := h.Store.Update(func(tx *store.Tx) error { return putDigests(tx, bucket, part) }); err != nil {
			return err
		}
	}
	return nil
}

func (h *Home) putState(tx *store.Tx, s *upgrade.State, log []string) error {
	if s == nil {
		return nil
	}
	data, err := s.Marshal()
	if err != nil {
		return err
	}
	entry, err := json.Marshal(journalled{At: h.now().UTC().Truncate(time.Millisecond), Log: log, State: *s})
	if err != nil {
		return err
	}
	if _, err := tx.Append(journalUpgrade, entry); err != nil {
		return err
	}
	return tx.Put(bucketMachine, keyState, data)
}

// putMachine keeps v beside the machine's state, of which alone the journal tells.
func putMachine[T any](tx *store.Tx, key string, v *T) error {
	if v == nil {
		return nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return tx.Put(bucketMachine, key, data)
}

// appendTrust notes which metadata came into force, and what with them.
func (h *Home) appendTrust(tx *store.Tx, digest bundle.Digest, signed []control.HistorySigned) error {
	if digest.IsZero() {
		return nil
	}
	entry := []byte(digest.String())
	if len(signed) > 0 {
		now := h.now().UTC().Truncate(time.Millisecond)
		for i := range signed {
			signed[i].At = now
		}
		var err error
		if entry, err = json.Marshal(brought{Metadata: digest, Signed: signed}); err != nil {
			return err
		}
	}
	_, err := tx.Append(journalTrust, entry)
	return err
}

func putDigests(tx *store.Tx, bucket string, digests map[string]bundle.Digest) error {
	for key, d := range digests {
		put := func() error { return tx.Put(bucket, key, []byte(d.String())) }
		if d.IsZero() {
			put = func() error { return tx.Delete(bucket, key) }
		}
		if err := put(); err != nil {
			return err
		}
	}
	return nil
}

func byKey(digests map[bundle.Version]bundle.Digest) map[string]bundle.Digest {
	m := map[string]bundle.Digest{}
	for v, d := range digests {
		m[strconv.FormatUint(uint64(v), 10)] = d
	}
	return m
}

// raise puts into the floor what must survive even the loss of the database.
func raise(f *store.Floor, by *node.Floor) {
	if by == nil {
		return
	}
	f.Release, f.Root, f.Timestamp = by.Release, by.Root, by.Timestamp
	f.Snapshot, f.Targets, f.Operator, f.Expired = by.Snapshot, by.Targets, by.Operator, by.Expired
	f.Members = by.Members
	f.Settled, f.Obeys = by.Promises.Settled, by.Promises.Obeys
	f.Turned, f.Final = by.Promises.Turned, by.Promises.Final
	f.EndedRelease, f.EndedCount = by.Promises.EndedRelease, by.Promises.EndedCount
	f.RecordSeq = by.Numbers
}

// Observed keeps which simulation objects were told of calls.
type Observed struct{ Home *Home }

// Load returns what was saved last.
func (o Observed) Load() ([]byte, bool, error) { return o.Home.Store.Get(bucketMachine, keyObserved) }

// Save keeps data in place of what was saved before.
func (o Observed) Save(data []byte) error { return o.Home.Store.Put(bucketMachine, keyObserved, data) }
