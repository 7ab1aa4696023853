package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
)

// TestSoftwareLost loses and damages the software that a node runs, while the agent runs
// and while it does not. It comes back from the peer, and nothing else is ever run.
func TestSoftwareLost(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts many processes; run without -short")
	}
	c := settledSmall(t, 2)
	a := c.Agents[0]
	artifacts := filepath.Join(a.Data, "artifacts")
	for _, one := range []struct {
		name    string
		stopped bool // the agent, meanwhile
		spoil   func(path string) error
	}{
		{"lost while the agent runs", false, os.Remove},
		{"damaged while the agent runs", false, flipBit},
		{"lost while it does not", true, os.Remove},
		{"damaged while it does not", true, flipBit},
	} {
		before, noticed := c.pid(a), fetchedAgain(t, a)
		if one.stopped {
			c.kill(a)
		}
		spoilt := 0
		err := filepath.WalkDir(artifacts, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() || filepath.Ext(path) != ".tar" && filepath.Base(path) != "small" {
				return err
			}
			spoilt++
			return one.spoil(path)
		})
		if err != nil || spoilt < 2 {
			t.Fatalf("%s: %d files spoilt: %v", one.name, spoilt, err)
		}
		if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if one.stopped {
			c.up([]*cluster.Agent{a})
		}
		c.until(a, one.name+": the software to run again", func(s control.Status) bool {
			info, err := a.API.Info(t.Context())
			spoken := slices.ContainsFunc(s.Alarms, func(text string) bool { return strings.HasPrefix(text, "the software of release 1") })
			return err == nil && info.NodePID != 0 && info.NodePID != before && !spoken
		})
		if n := fetchedAgain(t, a); n != noticed+1 {
			t.Errorf("%s: that is noticed %d times", one.name, n-noticed)
		}
	}
}

// fetchedAgain counts how often an agent has said that it fetches the software again.
func fetchedAgain(t *testing.T, a *cluster.Agent) int {
	t.Helper()
	text, err := os.ReadFile(a.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), "the software is damaged or gone, and fetched again")
}

// flipBit changes one bit in the middle of a file.
func flipBit(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	return os.WriteFile(path, data, 0o755)
}

// pid is that of the node's software, once it is not just being started.
func (c *testCluster) pid(a *cluster.Agent) (pid int) {
	c.t.Helper()
	c.until(a, "the software to run", func(control.Status) bool {
		info, err := a.API.Info(c.t.Context())
		pid = info.NodePID
		return err == nil && pid != 0
	})
	return pid
}
