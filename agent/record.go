package agent

import (
	"crypto/ed25519"
	"maps"
	"math"
	"reflect"
	"slices"
	"time"

	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store"
)

// publish signs this node's record and passes it on, if it says anything new.
// What it promises (Version, Obeys, Ended) is durable before: it is read from
// the machine's state, and the loop calls publish only after that was saved.
func (a *Agent) publish() {
	r := a.record()
	if same(r, a.own) {
		return
	}
	if r.Phase != a.own.Phase || a.own.Since.IsZero() {
		r.Since = time.Now().UTC().Truncate(time.Millisecond)
	} else {
		r.Since = a.own.Since
	}
	seq, err := a.nextSeq()
	if err != nil {
		a.log.Error("status not published", "err", err)
		return
	}
	r.Seq = seq
	signed, err := view.Sign(a.key, r)
	if err != nil {
		a.log.Error("status not published", "err", err)
		return
	}
	if _, err := a.view.Merge(signed); err != nil {
		a.log.Error("status not published", "err", err)
		return
	}
	a.own = r
	a.dirty[a.id], a.viewNews = true, true
	a.noteDone(a.id, time.Now())
	if a.ring != nil {
		a.ring.Rumour(signed)
	}
}

// nextSeq returns the next record number. Numbers are reserved durably, a
// block at a time, so that none is used twice, even when the database is lost.
func (a *Agent) nextSeq() (uint64, error) {
	next := a.seq + 1
	if next > a.store.Floor().RecordSeq {
		if err := a.store.Raise(func(f *store.Floor) { f.RecordSeq = next + seqBlock }); err != nil {
			return 0, err
		}
	}
	a.seq = next
	return next, nil
}

// record is what this node says of itself now.
func (a *Agent) record() view.Record {
	s := a.saved
	v := a.trust.Versions()
	r := view.Record{
		Node: a.id, Key: a.key.Public().(ed25519.PublicKey), Name: a.cfg.Name, Class: a.cfg.Class,
		Addr: a.ring.Addr(), Version: s.Claims(), Target: s.Goal, Phase: string(s.Phase),
		Progress: math.Floor(10*a.progress) / 10, Reason: a.reason(s), Obeys: s.Obeys,
		Ended:    view.Ended{Release: s.EndedRelease, Count: s.EndedCount},
		Held:     s.Phase == upgrade.Held,
		Services: map[string]view.ServiceAddr{},
		Labels:   maps.Clone(a.cfg.Labels), Platform: a.platform,
		Trust:  view.Heads{Root: v.Root, Timestamp: v.Timestamp, Head: a.trust.Head()},
		Alarms: slices.Clone(a.alarms), Left: a.left,
	}
	if s.Phase != upgrade.Fetching {
		r.Progress = 0
	}
	for name, addr := range a.layer.Addresses() {
		r.Services[name] = view.ServiceAddr{
			Public: addr.Public, Versions: maps.Clone(addr.Versions), Native: s.Running,
			Attach: a.wayOf(name).Kind, Egress: a.ways.Egress.Kind, Protocol: a.protocolOf(name),
		}
	}
	return r
}

// reason is what the record says beside the phase. Of a node that waits it is a
// code, not the names of those that it waits for: these change with every step
// that any of them takes, and each change would be a record from every node.
// Whoever shows it can tell the whole reason from the view.
func (a *Agent) reason(s upgrade.State) string {
	switch {
	case a.trouble != "":
		return a.trouble
	case s.Reason != "":
		return s.Reason
	case s.Phase == upgrade.Waiting && a.wait.Code != "":
		return "waits: " + a.wait.Code
	}
	return ""
}

// same reports whether two records say the same, but for number and time.
func same(a, b view.Record) bool {
	a.Seq, b.Seq = 0, 0
	a.Since, b.Since = time.Time{}, time.Time{}
	return reflect.DeepEqual(a, b)
}
