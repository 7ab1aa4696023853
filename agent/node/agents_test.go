package node

import (
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

var (
	thisAgent = bundle.Sum([]byte("the agent that runs"))
	newAgent  = bundle.Sum([]byte("the agent of release 2"))
	linux     = bundle.Platform{OS: "linux", Arch: "amd64"}
)

// agentBench is a node at rest under an order of release 2 that replaces agents, and is the
// second of two in it; done has the first say that it needs it no more.
func agentBench(t *testing.T, s upgrade.State) (b *bench, done func()) {
	t.Helper()
	b = newBench(t, s)
	b.cfg.Platform = linux
	b.releases(1, 2)
	b.order(2)
	b.docs.manifests[2].Agent = &bundle.AgentUpgrade{MaxUnavailable: "1", HealthyDeadline: bundle.MinAgentDeadline, Artifacts: []bundle.AgentArtifact{{
		Artifact: bundle.Artifact{Platform: linux, Digest: bundle.Sum([]byte("its tar"))}, Program: newAgent,
	}}}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	first := b.record(key, func(*view.Record) {})
	b.docs.orders[2].Agents = &schedule.AgentsOrder{Release: 2, Manifest: b.docs.known[2], MaxUnavailable: 1, Roster: []bundle.NodeID{first, b.cfg.Self}}
	b.meta.Expires = b.now.Add(time.Hour)
	b.Step(b.now, Synced{})
	return b, func() {
		b.record(key, func(r *view.Record) { r.Seq, r.Agent.Done = 2, 2 })
	}
}

// until does what the node wants until it has a wish about its agent, or wants nothing; saved
// is what of agents was made durable on the way.
func (b *bench) until(events ...Event) (wish *schedule.AgentStep, saved *schedule.AgentMemory, said view.AgentBuild) {
	b.t.Helper()
	for _, e := range append(events, Tick{}) {
		b.now = b.now.Add(time.Second)
		b.Step(b.now, e)
	}
	for range 100 {
		r := b.Ready()
		if r.Empty() {
			return wish, saved, b.Node.record().Agent
		}
		if r.Save != nil && r.Agent != nil {
			b.t.Error("it is to be done before it is durable that it begins")
		}
		if r.Save != nil && r.Save.Agents != nil {
			saved = r.Save.Agents
		}
		if r.Agent != nil {
			wish = r.Agent
		}
		b.Advance(r)
	}
	b.t.Fatal("it wants no end")
	return nil, nil, said
}

func known(fetched bundle.Digest, failed map[bundle.Digest]string) AgentKnown {
	return AgentKnown{AgentKnown: schedule.AgentKnown{Runs: thisAgent, Fetched: fetched, Failed: failed}}
}

// TestAgentReplaced: an agent fetches the one of the release, waits for its turn, and has it
// durable that it begins; put back, it says so until the
// operator gives it another attempt.
func TestAgentReplaced(t *testing.T) {
	b, done := agentBench(t, at(2))
	if wish, _, said := b.until(); wish != nil || said != (view.AgentBuild{}) {
		t.Errorf("without a word from the driver: %+v, %+v", wish, said)
	}
	wish, saved, said := b.until(known(bundle.Digest{}, nil))
	if wish == nil || !wish.Fetch || wish.Replace || saved != nil || said.Program != thisAgent.Hex()[:agentDigits] {
		t.Fatalf("%+v, %+v, %+v", wish, saved, said)
	}
	art := wish.Artifact
	if wish, _, _ := b.until(); wish != nil {
		t.Errorf("it asks again: %+v", wish)
	}
	if wish, _, _ := b.until(known(art.Digest, nil)); wish != nil || b.agents.step.Reason.Code != schedule.CodeAgentsBudget {
		t.Errorf("before its turn: %+v, %+v", wish, b.agents.step.Reason)
	}
	done()
	wish, saved, said = b.until()
	if wish == nil || !wish.Replace || wish.Release != 2 || saved == nil || saved.Tried != 2 || saved.Attempts != 1 || said.Trying != 2 {
		t.Fatalf("in its turn: %+v, %+v, %+v", wish, saved, said)
	}
	wish, _, said = b.until(known(art.Digest, map[bundle.Digest]string{newAgent: "it crashed"}))
	alarms := strings.Join(b.Alarms(), "\n")
	if wish != nil || said.Failed != 2 || said.Done != 0 || !strings.Contains(alarms, "it crashed; `moult retry --release 2 ") {
		t.Errorf("put back: %+v, %+v, %s", wish, said, alarms)
	}
	b.docs.orders[2].Agents.Roster = append(b.docs.orders[2].Agents.Roster, b.cfg.Self)
	if wish, saved, _ = b.until(); wish == nil || !wish.Replace || saved == nil || saved.Attempts != 2 {
		t.Errorf("retried: %+v, %+v", wish, saved)
	}
	// The new one starts, and goes on from what is durable.
	now := known(art.Digest, nil)
	now.Runs = newAgent
	wish, saved, said = b.until(now)
	if wish != nil || saved == nil || saved.Done != 2 || said.Done != 2 || said.Trying != 0 || len(b.Alarms()) > 0 {
		t.Errorf("confirmed: %+v, %+v, %+v", wish, saved, said)
	}
	// What was well once is not put in place of what is installed by hand since.
	if wish, _, said := b.until(known(art.Digest, nil)); wish != nil || said.Done != 2 {
		t.Errorf("another by hand: %+v, %+v", wish, said)
	}
}

// TestAgentWaits: nothing is done while the node is between halt and start, nor by what is not in
// force, nor on a full disk.
func TestAgentWaits(t *testing.T) {
	for name, change := range map[string]func(*bench){
		"paused":          func(b *bench) { b.docs.orders[2].State = schedule.StatePaused },
		"aborted":         func(b *bench) { b.docs.orders[2].State = schedule.StateAborted },
		"taken back":      func(b *bench) { b.docs.orders[2].Turn = 1 },
		"other content":   func(b *bench) { b.docs.orders[2].Agents.Manifest = thisAgent },
		"no word of them": func(b *bench) { b.docs.orders[2].Agents = nil },
		"leaving":         func(b *bench) { b.left = true },
	} {
		b, done := agentBench(t, at(2))
		done()
		change(b)
		if wish, _, _ := b.until(known(bundle.Sum([]byte("its tar")), nil)); wish != nil && wish.Replace {
			t.Errorf("%s: %+v", name, wish)
		}
	}
	down := at(1)
	down.Phase, down.Goal, down.Path, down.Step = upgrade.Draining, 2, []bundle.Version{2}, 3
	b, done := agentBench(t, down)
	done()
	if wish, _, _ := b.until(known(bundle.Sum([]byte("its tar")), nil)); wish != nil {
		t.Errorf("down: %+v", wish)
	}
	b, done = agentBench(t, at(2))
	done()
	b.Step(b.now, known(bundle.Sum([]byte("its tar")), nil))
	r := b.Ready()
	if r.Save == nil || r.Save.Agents == nil {
		t.Fatalf("%+v", r)
	}
	b.Refused("full")
	if r := b.Ready(); r.Agent != nil {
		t.Error("it is done although it could not be written down")
	}
}

// A platform without an artifact needs none, and who runs it already neither.
func TestAgentNotNeeded(t *testing.T) {
	b, _ := agentBench(t, at(2))
	b.cfg.Platform.Arch = "arm64"
	if wish, _, said := b.until(known(bundle.Digest{}, nil)); wish != nil || said.Done != 2 {
		t.Errorf("%+v, %+v", wish, said)
	}
	b, _ = agentBench(t, at(2))
	k := known(bundle.Digest{}, nil)
	k.Runs, k.OnTrial = newAgent, true
	if wish, _, said := b.until(k); wish != nil || said.Done != 0 || said.Trying != 2 {
		t.Errorf("on trial: %+v, %+v", wish, said)
	}
	k.OnTrial = false
	if wish, _, said := b.until(k); wish != nil || said.Done != 2 {
		t.Errorf("%+v, %+v", wish, said)
	}
}
