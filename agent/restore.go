package agent

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"moult/agent/node"
	"moult/agent/software"
	"moult/agent/upgrade"
	"moult/store"
	"moult/store/bundle/trust"
)

// restore makes the node of what the disk says of earlier runs.
func (l *loop) restore() error {
	if err := l.removeLeftovers(); err != nil {
		return err
	}
	m := node.Memory{Floor: floorOf(l.store.Floor())}
	if err := errors.Join(l.restoreView(&m), l.restoreAnswering(&m), l.restoreState(&m), l.restoreTrust(&m)); err != nil {
		return err
	}
	var err error
	cfg := l.nodeConfig()
	if cfg.Enrolment, err = l.enrol(); err != nil {
		return err
	}
	if l.node, err = node.New(cfg, m, time.Now()); err != nil {
		return err
	}
	l.saved = l.node.Saved()
	l.readDocuments()
	if d := l.store.Damage(); d != nil {
		l.alarmOf(causeStore, fmt.Sprintf("the store was damaged (%s); what peers know is fetched again", d.What))
	}
	if l.another {
		l.alarm("%s was lost, so this is another node than before, and its peers wait for the old one: end the agent and restore the file from a backup; or go on, and forget the old node, whose ID `moult members` shows", identityFile)
	}
	if l.node.BelowFloor() {
		// The database was lost: nothing older than the floor is accepted, and
		// peers bring what is newer.
		l.log.Warn("trust metadata are behind the floor, waiting for peers")
	}
	return nil
}

// causeStore is that of an alarm.
const causeStore = "store"

// readDocuments reads what is on the disk before anything is opened: what the services
// speak stands in the releases.
func (l *loop) readDocuments() {
	for docs := l.node.Unread(); len(docs) > 0; docs = l.node.Unread() {
		var answers []node.Event
		for _, doc := range docs {
			answers = append(answers, l.read(doc))
		}
		l.node.Advance(node.Ready{Read: docs})
		for _, e := range answers {
			l.step(e)
		}
	}
}

func (a *Agent) nodeConfig() node.Config {
	return node.Config{
		Self: a.id, Key: a.key.Public().(ed25519.PublicKey), Name: a.cfg.Name, Class: a.cfg.Class, Platform: a.platform,
		Labels: maps.Clone(a.cfg.Labels), FirstSync: a.cfg.FirstSync, Services: a.services(), OpenRing: a.cfg.OpenRing,
		Zone: zones(),
	}
}

// zones finds time zones, and reads each only once.
func zones() func(name string) (*time.Location, error) {
	known := map[string]*time.Location{}
	return func(name string) (*time.Location, error) {
		if loc, ok := known[name]; ok {
			return loc, nil
		}
		loc, err := time.LoadLocation(name)
		if err == nil {
			known[name] = loc
		}
		return loc, err
	}
}

// services are what the node decides by of each service.
func (a *Agent) services() map[string]node.Service {
	all := map[string]node.Service{}
	for name, s := range a.cfg.Services {
		one := node.Service{Protocol: s.Protocol, External: s.External}
		if s.First != 0 {
			one.Ports = s.Last - s.First + 1
		}
		if ad := a.cfg.Adopt; ad != nil {
			if adopted, ok := ad.Services[name]; ok {
				one.Protocol = adopted.Protocol
			}
		}
		all[name] = one
	}
	return all
}

func floorOf(f store.Floor) node.Floor {
	return node.Floor{
		Versions: trust.Versions{Root: f.Root, Timestamp: f.Timestamp, Snapshot: f.Snapshot, Targets: f.Targets, Operator: f.Operator},
		Release:  f.Release, Numbers: f.RecordSeq, Expired: f.Expired, Members: f.Members,
		Promises: upgrade.Promises{Settled: f.Settled, Obeys: f.Obeys, EndedRelease: f.EndedRelease, EndedCount: f.EndedCount, Turned: f.Turned},
	}
}

// removeLeftovers clears away what injections left that a crash ended.
func (a *Agent) removeLeftovers() error {
	left, err := filepath.Glob(filepath.Join(a.cfg.Data, injectPrefix+"*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("clear away an unfinished injection: %w", err)
		}
	}
	return nil
}

// restoreState reads the state as last saved, and which slot is live. At the first
// start of a node that ran before moult, its state becomes a slot.
func (a *Agent) restoreState(m *node.Memory) error {
	data, ok, err := a.store.Get(bucketMachine, keyState)
	if err != nil {
		return err
	}
	if ok {
		s, err := upgrade.ParseState(data)
		if err != nil {
			return err
		}
		m.State = &s
		if d := a.store.Damage(); d != nil && d.Where == "" {
			m.Doubt = d.What
		}
	}
	if m.Slot, _, err = a.slots.Current(); err != nil {
		a.log.Error("the live slot is not named, and is looked for", "err", err)
	}
	m.Ran = software.Find(a.cfg.Data, a.log).Version()
	if m.Slots, err = a.slots.List(); err == nil {
		err = m.Seek(a.cfg.Adopt != nil)
	}
	if err != nil || ok || m.Slot != 0 || a.cfg.Adopt == nil {
		return err
	}
	m.Slot, m.Adopted = a.cfg.Adopt.Version, true
	a.log.Info("taking over the software's state", "version", m.Slot, "from", a.cfg.Adopt.State)
	return a.slots.Adopt(m.Slot, a.cfg.Adopt.State)
}
