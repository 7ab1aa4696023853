package agent

import (
	"path/filepath"
	"time"

	"moult/agent/notify"
	"moult/agent/process"
	"moult/agent/software"
)

// eventsFile is the file of the data folder that says what was told of events.
const eventsFile = "events.json"

// openEvents has the operator's command told what happens, where there is one. That its
// program is not there keeps no node from being upgraded.
func (l *loop) openEvents(c *closers) {
	command := l.cfg.OnEvent
	if len(command) == 0 {
		return
	}
	if err := process.CheckProgram("/", command[0]); err != nil {
		l.alarm("on_event: nobody is told of events: %v; correct agent.hcl, and restart the agent", err)
		return
	}
	l.events = notify.Start(notify.Config{
		Command: command, Env: software.PlainEnvironment(nil, nil), Ledger: filepath.Join(l.cfg.Data, eventsFile),
		Source: notify.Source{Cluster: l.Cluster, Node: l.cfg.Name, ID: l.ID, Class: l.cfg.Class}, Log: l.log,
	})
	c.add(l.events.Close)
}

// observe shows, now and then, what holds to who tells of it.
func (l *loop) observe(now time.Time) {
	if l.events != nil && !now.Before(l.eventsAt) {
		l.eventsAt = now.Add(eventInterval)
		o := l.node.Orders()[l.node.Rolling()]
		l.events.Observe(now, o != nil && o.Names(l.cfg.Class, l.ID), l.report().Conditions())
	}
}
