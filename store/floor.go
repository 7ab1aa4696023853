package store

import (
	"errors"
	"fmt"

	"moult/gossip/view"
	"moult/store/bundle"
)

// Floor holds what must never go down on a peer, not even when its database
// is lost (promise P2), and what it has promised to others.
type Floor struct {
	// Release is the newest release that this peer has accepted.
	Release bundle.Version `json:"release"`
	// Versions of the trust metadata that this peer has accepted.
	Root      int64 `json:"root"`
	Timestamp int64 `json:"timestamp"`
	Snapshot  int64 `json:"snapshot"`
	Targets   int64 `json:"targets"`
	Operator  int64 `json:"operator"`
	// Expired is the highest timestamp version of metadata that had expired.
	Expired int64 `json:"expired,omitempty"`
	// Members is the highest serial of who belongs to the cluster.
	Members uint64 `json:"members,omitempty"`
	// JournalSeq and JournalHash name the last journal entry. They are the
	// store's: Raise refuses to change them.
	JournalSeq  uint64        `json:"journalSeq"`
	JournalHash bundle.Digest `json:"journalHash"`
	// RecordSeq is the highest sequence number of this node's own status
	// record that may have been published.
	RecordSeq uint64 `json:"recordSeq"`
	// EndedCount attempts for EndedRelease ended without settling.
	EndedRelease bundle.Version `json:"endedRelease"`
	EndedCount   int            `json:"endedCount"`
	// Obeys: this node never again goes down under an order of an earlier
	// release.
	Obeys bundle.Version `json:"obeys"`
	// Turned is how far this node is with the turns of a release's order.
	Turned view.Turned `json:"turned,omitzero"`
	// Final is the newest release that this node has begun to finalize by the release's own word.
	Final bundle.Version `json:"final,omitempty"`
	// Settled is the newest version that this node has said it settled at.
	Settled bundle.Version `json:"settled"`
	// Cluster is the digest of the cluster's first root; once set it stays.
	Cluster bundle.Digest `json:"cluster"`
}

// lowered returns what would go down from f to g.
func (f Floor) lowered(g Floor) error {
	var errs []error
	low := func(name string, from, to uint64) {
		if to < from {
			errs = append(errs, fmt.Errorf("%s would go down from %d to %d", name, from, to))
		}
	}
	signed := func(name string, from, to int64) {
		if to < from {
			errs = append(errs, fmt.Errorf("%s would go down from %d to %d", name, from, to))
		}
	}
	low("release", uint64(f.Release), uint64(g.Release))
	signed("root version", f.Root, g.Root)
	signed("timestamp version", f.Timestamp, g.Timestamp)
	signed("snapshot version", f.Snapshot, g.Snapshot)
	signed("targets version", f.Targets, g.Targets)
	signed("operator version", f.Operator, g.Operator)
	signed("expired version", f.Expired, g.Expired)
	low("serial of members", f.Members, g.Members)
	low("journal sequence", f.JournalSeq, g.JournalSeq)
	low("record sequence", f.RecordSeq, g.RecordSeq)
	low("ended release", uint64(f.EndedRelease), uint64(g.EndedRelease))
	if g.EndedRelease == f.EndedRelease {
		signed("ended count", int64(f.EndedCount), int64(g.EndedCount))
	}
	low("obeyed release", uint64(f.Obeys), uint64(g.Obeys))
	if f.Turned.Max(g.Turned) != g.Turned {
		errs = append(errs, fmt.Errorf("turn would go down from %+v to %+v", f.Turned, g.Turned))
	}
	low("final release", uint64(f.Final), uint64(g.Final))
	low("settled version", uint64(f.Settled), uint64(g.Settled))
	if !f.Cluster.IsZero() && g.Cluster != f.Cluster {
		errs = append(errs, fmt.Errorf("cluster would change from %s to %s", f.Cluster.Short(), g.Cluster.Short()))
	}
	return errors.Join(errs...)
}

// join returns the least floor that is not below f nor below g. Of two
// clusters it keeps f's: a peer never changes its cluster.
func (f Floor) join(g Floor) Floor {
	f.Release = max(f.Release, g.Release)
	f.Root = max(f.Root, g.Root)
	f.Timestamp = max(f.Timestamp, g.Timestamp)
	f.Snapshot = max(f.Snapshot, g.Snapshot)
	f.Targets = max(f.Targets, g.Targets)
	f.Operator = max(f.Operator, g.Operator)
	f.Expired = max(f.Expired, g.Expired)
	f.Members = max(f.Members, g.Members)
	if g.JournalSeq > f.JournalSeq {
		f.JournalSeq, f.JournalHash = g.JournalSeq, g.JournalHash
	}
	f.RecordSeq = max(f.RecordSeq, g.RecordSeq)
	switch {
	case g.EndedRelease > f.EndedRelease:
		f.EndedRelease, f.EndedCount = g.EndedRelease, g.EndedCount
	case g.EndedRelease == f.EndedRelease:
		f.EndedCount = max(f.EndedCount, g.EndedCount)
	}
	f.Obeys = max(f.Obeys, g.Obeys)
	f.Turned = f.Turned.Max(g.Turned)
	f.Final = max(f.Final, g.Final)
	f.Settled = max(f.Settled, g.Settled)
	if f.Cluster.IsZero() {
		f.Cluster = g.Cluster
	}
	return f
}
