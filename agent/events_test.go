package agent

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moult/agent/notify"
	"moult/testdata/kit"
)

// The operator's command is told of alarms, of each once, over a restart of the agent.
func TestEventsTold(t *testing.T) {
	cfg := benchConfig(t)
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	program := filepath.Join(dir, "tell")
	if err := os.WriteFile(program, []byte("#!/bin/sh\ncat >> $1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg.OnEvent = []string{program, out}
	told := func() (all []notify.Event) {
		f, err := os.Open(out)
		if err != nil {
			return nil
		}
		defer f.Close()
		for lines := json.NewDecoder(f); ; {
			var e notify.Event
			if lines.Decode(&e) != nil {
				return all
			}
			all = append(all, e)
		}
	}
	now := time.Now()
	see := func(b *bench) {
		b.do(func() {
			for range 5 {
				now = now.Add(eventInterval)
				b.observe(now)
			}
		})
	}
	b := newBench(t, cfg, 0)
	b.do(func() {
		b.alarmOf(causeStore, "the store was damaged")
		b.alarmOf(causeDisk, "the disk takes no writes")
	})
	see(b)
	kit.Until(t, "two events, and that they are kept as told", func() bool {
		ledger, err := os.ReadFile(filepath.Join(cfg.Data, eventsFile))
		return err == nil && len(told()) == 2 && strings.Contains(string(ledger), causeStore) && strings.Contains(string(ledger), causeDisk)
	})
	first := told()
	if e := first[0]; e.Event != "alarm" || e.Key != "alarm "+causeStore || e.Text != "the store was damaged" || e.Node != "n1" || e.ID != b.ID || e.Cluster != b.Cluster || e.Class != "kv" {
		t.Errorf("told %+v", e)
	}
	// What the command has had, and the agent has not noted, is told again.
	kit.Until(t, "both to be kept as told", func() bool {
		data, _ := os.ReadFile(filepath.Join(cfg.Data, eventsFile))
		return bytes.Contains(data, []byte("alarm "+causeStore)) && bytes.Contains(data, []byte("alarm "+causeDisk))
	})
	b.close()
	again := newBench(t, cfg, 0)
	again.do(func() { again.alarmOf(causeStore, "the store was damaged again") })
	see(again)
	now = now.Add(11 * time.Minute) // an agent that has just begun may find an alarm again until then
	see(again)
	kit.Until(t, "the alarm's end", func() bool { return len(told()) >= 3 })
	if all := told(); len(all) != 3 || all[2].Event != notify.Cleared || all[2].Key != first[1].Key {
		t.Errorf("after a restart: told %+v", all[2:])
	}
}

// A command that is not there is an alarm, and no more.
func TestEventsWithoutProgram(t *testing.T) {
	cfg := benchConfig(t)
	cfg.OnEvent = []string{filepath.Join(t.TempDir(), "none")}
	b := newBench(t, cfg, 0)
	b.do(func() {
		b.observe(time.Now())
		if b.alarmed("nobody is told of events") != 1 {
			t.Errorf("alarms %q", b.node.Alarms())
		}
	})
}
