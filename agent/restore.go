package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"time"

	"moult/agent/backup"
	"moult/agent/control"
	"moult/agent/home"
	"moult/agent/node"
	"moult/agent/rehearse"
	"moult/agent/report"
	"moult/agent/software"
	"moult/store/bundle"
	"moult/store/bundle/trust"
	"moult/transforms"
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
	l.parted = m.Apart != ""
	if why, err := l.Restored(); err != nil {
		return err
	} else if why != "" {
		l.regaining = &regaining{heard: map[bundle.NodeID]bool{}}
	}
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

// causeStore and causeRestored are those of alarms.
const causeStore, causeRestored = "store", "restored"

// regaining is what a folder waits for that was restored, or that somebody has said is the node's
// though its peers know more. Whoever went down by the word of this node, and went by what it
// had signed since, must be heard before it begins anything: those of its class that count.
type regaining struct {
	heard  map[bundle.NodeID]bool
	synced bool // somebody was heard, or there is nobody
}

// synced says that an exchange has ended since the start, or that there is nobody to ask.
func (l *loop) synced() {
	if l.regaining == nil {
		l.step(node.Synced{})
		return
	}
	l.regaining.synced = true
	l.regain()
}

func (l *loop) exchanged(with bundle.NodeID) {
	if l.regaining != nil {
		l.regaining.heard[with] = true
		l.regain()
	}
}

// regain looks whom the node has not heard yet, asks them, and says so. When it has heard all, it
// goes on.
func (l *loop) regain() {
	if l.regaining == nil {
		return
	}
	missing, text := report.Unheard(l.node, l.cfg.Class, l.regaining.heard, l.regaining.synced)
	for _, r := range missing {
		if l.node.Alive(r.Node) {
			l.ring.SyncSoon(r.Node)
		}
	}
	l.alarmOf(causeRestored, text)
	if text != "" {
		return
	}
	l.regaining, l.regained = nil, true
	l.step(node.Synced{})
}

// keepMarks has the next start know how this one stands, before the node's next word.
func (l *loop) keepMarks() {
	if why := l.node.Apart(); why != "" && !l.parted {
		l.parted = true
		if err := l.Part(why); err != nil {
			l.log.Error("the next start does not know that this node's key is used elsewhere", "err", err)
		}
	}
	if l.regained {
		l.regained = false
		if err := l.Regained(); err != nil {
			l.log.Error("the next start regains once more what the node has signed", "err", err)
		}
	}
}

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

// backUp says what a backup is of.
func (l *loop) backUp() (b backup.About, err error) {
	s := l.node.State()
	if err := backup.Whole(s.Phase, l.regaining != nil, afterRollout); err != nil {
		return b, err
	}
	return backup.About{Node: l.ID, Cluster: l.Cluster, Name: l.cfg.Name, Class: l.cfg.Class, Version: s.Running}, nil
}

// Backup saves the node while it runs. Its state is copied by its release's own snapshot program:
// files that are written to meanwhile are of no one moment.
func (b api) Backup(ctx context.Context, q control.BackupRequest) error {
	about, err := ask(b.a, &backupWanted{})
	if err != nil {
		return err
	}
	src := backup.Source{About: about, Data: b.a.cfg.Data, Store: b.a.Store.CopyTo, One: &b.a.Saving}
	if !q.Stateless && about.Version != 0 {
		if src.State, err = b.a.snapshotOf(ctx, about.Version); err != nil {
			return err
		}
	}
	src.Still = func() error { // nothing may have begun meanwhile
		now, err := ask(b.a, &backupWanted{})
		if err == nil && now != about {
			err = control.Refused(errors.New("the node was upgraded meanwhile"), "try again")
		}
		return err
	}
	return backup.Make(ctx, src, q.To)
}

// snapshotOf returns what fills a folder with the state of the software that runs.
func (a *Agent) snapshotOf(ctx context.Context, v bundle.Version) (func(context.Context, string) error, error) {
	cu, dir, err := a.programOf(ctx, v)
	if err != nil {
		return nil, err
	}
	if cu.Rehearse == nil || len(cu.Rehearse.Snapshot) == 0 {
		return nil, control.Refused(fmt.Errorf("back up: release %d has no snapshot program (rehearse.snapshot), so nobody can copy the state while its software writes to it", v),
			"`moult backup --stateless FOLDER` leaves the state out, for which the software may have a tool of its own; or end the agent and the software, and type it then")
	}
	return backup.Snapshot(transforms.Job{
		Spec: bundle.Transform{Exec: cu.Rehearse.Snapshot}, Dir: dir, Old: a.Slots.Path(v), New: a.BackupFolder(), From: v, To: v,
		Env: a.soft.SnapshotEnvironment(), Account: a.Account, Bounds: a.bounds.Rehearsals, Sandbox: a.Sandbox, Live: true, Reserve: rehearse.Reserve,
	}, a.log), nil
}
