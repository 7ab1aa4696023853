package home

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"moult/agent/node"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Memory is what the disk says of earlier runs.
type Memory struct {
	node.Memory
	InForce  *trust.Verified // the first root's, where none is kept
	Evidence *trust.Verified // the set that contradicts others; nil: none
}

// Recall reads what earlier runs knew, and which slot is live. ran is the version of the
// software that an earlier run has left. At the first start of a node that ran before
// moult, its state becomes a slot.
func (h *Home) Recall(ran bundle.Version) (Memory, error) {
	m := Memory{Memory: node.Memory{Floor: h.Floor(), Ran: ran}}
	return m, errors.Join(h.recallMarks(&m), h.recallView(&m), recallMachine(h, keyAnswering, &m.Answering), recallMachine(h, keyFinalizing, &m.Observed), recallMachine(h, keyAgents, &m.Agents), h.recallState(&m), h.recallTrust(&m), h.doubtRestored(&m))
}

func (h *Home) recallMarks(m *Memory) (err error) {
	m.Apart, err = readMark(h.cfg.Data, apartFile)
	return err
}

// doubtRestored has a folder that was restored be doubted as one whose last writes are lost. It
// names the live slot all the same.
func (h *Home) doubtRestored(m *Memory) error {
	why, err := h.Restored()
	if why != "" {
		m.Doubt = why
	}
	return err
}

// Floor is what survives even the loss of the database.
func (h *Home) Floor() node.Floor {
	f := h.Store.Floor()
	return node.Floor{
		Versions: trust.Versions{Root: f.Root, Timestamp: f.Timestamp, Snapshot: f.Snapshot, Targets: f.Targets, Operator: f.Operator},
		Release:  f.Release, Numbers: f.RecordSeq, Expired: f.Expired, Members: f.Members,
		Promises: upgrade.Promises{Settled: f.Settled, Obeys: f.Obeys, EndedRelease: f.EndedRelease, EndedCount: f.EndedCount, Turned: f.Turned, Final: f.Final},
	}
}

// recallView reads the records that earlier runs had seen.
func (h *Home) recallView(m *Memory) error {
	return h.Store.Each(bucketView, func(key string, raw []byte) error {
		s, err := view.ParseSigned(raw)
		if err != nil {
			h.log.Warn("stored record not taken", "node", key, "err", err)
			return nil
		}
		m.Records = append(m.Records, s)
		return nil
	})
}

// recallMachine reads what was kept beside the machine's state; what is not there stays as it is.
func recallMachine[T any](h *Home, key string, v *T) error {
	data, ok, err := h.Store.Get(bucketMachine, key)
	if err != nil || !ok {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %q, kept beside the machine's state: %w", key, err)
	}
	return nil
}

// stateOf is the machine's state as it was kept last, if it was.
func stateOf(st *store.Store) (s upgrade.State, ok bool, err error) {
	data, ok, err := st.Get(bucketMachine, keyState)
	if err == nil && ok {
		s, err = upgrade.ParseState(data)
	}
	return s, ok, err
}

func (h *Home) recallState(m *Memory) error {
	s, ok, err := stateOf(h.Store)
	if err != nil {
		return err
	}
	if ok {
		m.State = &s
		if d := h.Store.Damage(); d != nil && d.Where == "" {
			m.Doubt = d.What
		}
	}
	if m.Slot, _, err = h.Slots.Current(); err != nil {
		h.log.Error("the live slot is not named, and is looked for", "err", err)
	}
	if m.Slots, err = h.Slots.List(); err == nil {
		err = m.Seek(h.cfg.Adopt != nil)
	}
	if err != nil || ok || m.Slot != 0 || h.cfg.Adopt == nil {
		return err
	}
	m.Slot, m.Adopted = h.cfg.Adopt.Version, true
	h.log.Info("taking over the software's state", "version", m.Slot, "from", h.cfg.Adopt.State)
	return h.Slots.Adopt(m.Slot, h.cfg.Adopt.State)
}

// recallTrust reads what was in force before the restart, and what was frozen.
func (h *Home) recallTrust(m *Memory) error {
	m.InForce = h.Genesis
	raw, ok, err := h.stored(keySet)
	if err != nil {
		return err
	}
	if ok {
		if m.InForce, err = h.Verify(raw); err != nil {
			return fmt.Errorf("restore trust metadata: %w", err)
		}
	}
	m.Metadata = node.MetadataOf(m.InForce)
	if m.Frozen, err = h.digests(bucketFrozen); err != nil {
		return err
	}
	if m.Bound, err = h.digests(bucketOrders); err != nil {
		return err
	}
	return h.recallEvidence(m)
}

// recallEvidence reads the proof of a conflict. Peers that have lost theirs get it here.
func (h *Home) recallEvidence(m *Memory) error {
	raw, ok, err := h.stored(keyEvidence)
	if err != nil || !ok {
		return err
	}
	v, err := h.Verify(raw)
	switch {
	case err != nil:
		h.log.Warn("the stored evidence of a conflict is unreadable; what is frozen stays frozen", "err", err)
	case v.Digest() != m.InForce.Digest() && !trust.Thaws(v, m.InForce):
		m.Evidence, m.Memory.Evidence = v, node.MetadataOf(v)
	}
	return nil
}

// Verify reads a set and verifies it by itself.
func (h *Home) Verify(raw []byte) (*trust.Verified, error) {
	set, err := trust.ParseSet(raw)
	if err != nil {
		return nil, err
	}
	return trust.Verify(h.FirstRoot, nil, set)
}

// digests reads a bucket that has a digest for each release.
func (h *Home) digests(bucket string) (map[bundle.Version]bundle.Digest, error) {
	ds := map[bundle.Version]bundle.Digest{}
	err := h.Store.Each(bucket, func(key string, value []byte) error {
		n, err := strconv.ParseUint(key, 10, 64)
		if err != nil {
			return fmt.Errorf("the store's %s has an entry %q, which is no release: %w", bucket, key, err)
		}
		d, err := bundle.ParseDigest(string(value))
		if err != nil {
			return fmt.Errorf("the store's %s for release %d: %w", bucket, n, err)
		}
		ds[bundle.Version(n)] = d
		return nil
	})
	return ds, err
}

// stored returns the blob whose digest the store keeps under key. A blob that
// is gone is no error: peers have it.
func (h *Home) stored(key string) ([]byte, bool, error) {
	text, ok, err := h.Store.Get(bucketTrust, key)
	if err != nil || !ok {
		return nil, false, err
	}
	digest, err := bundle.ParseDigest(string(text))
	if err != nil {
		return nil, false, fmt.Errorf("restore trust metadata: %w", err)
	}
	blob := h.blob
	if blob == nil {
		blob = h.Depot.Blob
	}
	raw, ok, err := blob(digest)
	if err != nil {
		h.log.Warn("stored metadata unreadable, peers will bring them", "digest", digest.Short(), "err", err)
		return nil, false, nil
	}
	return raw, ok, nil
}
