package home

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"

	"moult/agent/config"
	"moult/agent/node"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store"
	"moult/store/artifact"
	"moult/store/bundle"
	"moult/store/bundle/trust"
	"moult/store/durable"
)

// Checked is what a build of the agent reads of a node: two builds that read the same agree.
type Checked struct {
	Node    bundle.NodeID `json:"node"`
	Cluster bundle.Digest `json:"cluster"`
	Name    string        `json:"name"`
	Class   bundle.Class  `json:"class"`
	// Version, Running and Phase are the machine's; none before the first.
	Version bundle.Version `json:"version"`
	Running bundle.Version `json:"running"`
	Phase   upgrade.Phase  `json:"phase,omitempty"`
	Served  bool           `json:"served"`
	// Trust are the versions of the metadata in force, and Floor is the node's floor.
	Trust trust.Versions `json:"trust"`
	Floor store.Floor    `json:"floor"`
	// Records counts the nodes whose records can be read, and Own is the number of this node's.
	Records int    `json:"records"`
	Own     uint64 `json:"own"`
	// Journal and Entry are how many entries the journal has had, and the last one's hash.
	Journal uint64        `json:"journal"`
	Entry   bundle.Digest `json:"entry"`

	Standing store.Standing `json:"-"`
}

// Check reads all that an agent with this configuration goes on from, as [Open] and
// [Home.Recall] do, from a copy of the store in the folder dir (see [store.OpenCopy]). Nothing
// else is written to, and what an agent of the data folder has open is left alone. All must be
// readable; damage is the error.
func Check(cfg config.Config, dir string, log *slog.Logger) (c Checked, err error) {
	h := &Home{cfg: cfg, log: log}
	h.blob = func(d bundle.Digest) ([]byte, bool, error) {
		return artifact.ReadBlob(filepath.Join(cfg.Data, "artifacts"), d)
	}
	if h.FirstRoot, err = durable.ReadFile(cfg.Root, maxRootFile); err != nil {
		return c, fmt.Errorf("read the cluster's first root: %w", err)
	}
	if h.Genesis, err = trust.Genesis(h.FirstRoot); err != nil {
		return c, fmt.Errorf("read the cluster's first root %s: %w", cfg.Root, err)
	}
	if h.Key, err = ReadIdentity(cfg.Data); err != nil {
		return c, err
	}
	h.ID = bundle.NodeIDOf(h.Key.Public().(ed25519.PublicKey))
	if h.Store, err = store.OpenCopy(dir, store.Options{Log: log}); err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	c = Checked{Node: h.ID, Cluster: h.Genesis.Cluster(), Name: cfg.Name, Class: cfg.Class, Floor: h.Store.Floor()}
	if c.Standing, err = h.Store.Standing(); err != nil {
		return c, err
	}
	c.Journal, c.Entry = c.Standing.Floor.JournalSeq, c.Standing.Floor.JournalHash
	if have := h.Store.Floor().Cluster; !have.IsZero() && have != c.Cluster {
		return c, fmt.Errorf("the store is of cluster %s, and the configuration names %s", have.Short(), c.Cluster.Short())
	}
	return c, errors.Join(h.checkRecords(&c), h.checkMachine(&c), h.checkTrust(&c))
}

// PhaseOf is the phase that the node is in by the copy of its store in the folder dir; none where
// it has no store yet.
func PhaseOf(dir string) (upgrade.Phase, error) {
	st, err := store.OpenCopy(dir, store.Options{Log: slog.New(slog.DiscardHandler)})
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	s, _, err := stateOf(st)
	return s.Phase, errors.Join(err, st.Close())
}

func (h *Home) checkRecords(c *Checked) error {
	return h.Store.Each(bucketView, func(key string, raw []byte) error {
		s, err := view.ParseSigned(raw)
		v := view.New(nil)
		if err == nil {
			_, err = v.Merge(s)
		}
		if err != nil { // peers bring it again
			h.log.Debug("a stored record is not taken", "node", key, "err", err)
			return nil
		}
		c.Records++
		for r := range v.All() {
			if r.Node == h.ID {
				c.Own = r.Seq
			}
		}
		return nil
	})
}

func (h *Home) checkMachine(c *Checked) error {
	var m node.Memory
	if err := errors.Join(recallMachine(h, keyAnswering, &m.Answering), recallMachine(h, keyFinalizing, &m.Observed)); err != nil {
		return err
	}
	s, ok, err := stateOf(h.Store)
	if err != nil || !ok {
		return err
	}
	c.Version, c.Running, c.Phase, c.Served = s.Version, s.Running, s.Phase, s.Served
	return h.Store.Journal(0, func(e store.Entry) error {
		var s journalled
		if e.Kind != journalUpgrade {
			return nil
		}
		if err := json.Unmarshal(e.Data, &s); err != nil {
			return fmt.Errorf("entry %d of the journal: %w", e.Seq, err)
		}
		return nil
	})
}

func (h *Home) checkTrust(c *Checked) error {
	m := Memory{}
	if err := h.recallTrust(&m); err != nil {
		return err
	}
	c.Trust = m.InForce.Versions()
	return nil
}
