package agent

import (
	"crypto/ed25519"
	"fmt"
	"maps"
	"time"

	"moult/agent/home"
	"moult/agent/node"
	"moult/agent/software"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// restore makes the node of what the disk says of earlier runs.
func (l *loop) restore() error {
	if err := l.RemoveArrivals(); err != nil {
		return err
	}
	m, err := l.Recall(software.Find(l.cfg.Data, l.log).Version())
	if err != nil {
		return err
	}
	l.trust = m.InForce
	l.sets = map[bundle.Digest]*trust.Verified{l.trust.Digest(): l.trust}
	if m.Evidence != nil {
		l.sets[m.Evidence.Digest()] = m.Evidence
	}
	cfg := l.nodeConfig()
	if cfg.Enrolment, err = l.Enrol(); err != nil {
		return err
	}
	if l.node, err = node.New(cfg, m.Memory, time.Now()); err != nil {
		return err
	}
	l.saved = l.node.Saved()
	l.readDocuments()
	if d := l.Store.Damage(); d != nil {
		l.alarmOf(causeStore, fmt.Sprintf("the store was damaged (%s); what peers know is fetched again", d.What))
	}
	if l.Another {
		l.alarm("%s was lost, so this is another node than before, and its peers wait for the old one: end the agent and restore the file from a backup; or go on, and forget the old node, whose ID `moult members` shows", home.IdentityFile)
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
		Self: a.ID, Key: a.Key.Public().(ed25519.PublicKey), Name: a.cfg.Name, Class: a.cfg.Class, Platform: a.platform,
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
