package bundle

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

// agentOf returns an agent block for some platforms.
func agentOf(platforms ...Platform) *AgentUpgrade {
	a := &AgentUpgrade{MaxUnavailable: "1", HealthyDeadline: Duration(time.Minute)}
	for _, p := range platforms {
		c := Chunk{Digest: Sum([]byte(p.String())), Length: 10}
		a.Artifacts = append(a.Artifacts, AgentArtifact{Artifact: Artifact{Platform: p, Digest: c.Digest, Length: 10, Chunks: []Chunk{c}}, Program: Sum([]byte("program"))})
	}
	return a
}

func TestAgentUpgrade(t *testing.T) {
	amd, arm := Platform{"linux", "amd64"}, Platform{"linux", "arm64"}
	for want, change := range map[string]func(*Manifest){
		"":                          func(*Manifest) {},
		"no class":                  func(m *Manifest) { m.Classes = nil },
		"agent.artifacts: none":     func(m *Manifest) { m.Agent.Artifacts = nil },
		"artifacts[1].program":      func(m *Manifest) { m.Agent.Artifacts[1].Program = Digest{} },
		"agent.max_unavailable":     func(m *Manifest) { m.Agent.MaxUnavailable = "0" },
		"agent.healthy_deadline":    func(m *Manifest) { m.Agent.HealthyDeadline = Duration(time.Second) },
		"a second artifact":         func(m *Manifest) { m.Agent.Artifacts[1].Platform = amd },
		"agent.artifacts[0].chunks": func(m *Manifest) { m.Agent.Artifacts[0].Chunks = nil },
		"format: 9, want 10":        func(m *Manifest) { m.Format = FormatFinalizeAfter },
	} {
		m := good(t)
		m.Agent = agentOf(amd, arm)
		m.Format = m.LowestFormat()
		if m.Format != FormatAgent {
			t.Fatal("format", m.Format)
		}
		change(m)
		ok := want == "" || want == "no class"
		data, err := MarshalManifest(m)
		if (err == nil) != ok || err != nil && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", want, err)
		}
		if !ok {
			continue
		}
		read, err := ParseManifest(data)
		if err != nil {
			t.Fatal(err)
		}
		if art, has := read.Agent.Artifact(arm); !has || art.Program != m.Agent.Artifacts[1].Program {
			t.Errorf("%q: %+v", want, read.Agent)
		}
		if again, err := MarshalManifest(read); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q: written again it differs: %v", want, err)
		}
	}
}

// A release without an agent block stays what agents of before read, and one with it is refused
// by them for its number.
func TestAgentUpgradeFormat(t *testing.T) {
	m := good(t)
	before := m.LowestFormat()
	if before >= FormatAgent || len(m.Software()) != len(m.Classes["kv"].Artifacts) {
		t.Error("format", before)
	}
	m.Agent = agentOf(Platform{"linux", "amd64"})
	m.Format = m.LowestFormat()
	data, err := MarshalManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	old := Form[Manifest]{MaxBytes: MaxManifestBytes, Newest: FormatFinalizeAfter, Marshal: MarshalManifest, TooNew: ErrTooNew, Malformed: ErrMalformed, NotCanonical: ErrNotCanonical}
	if _, err := old.Parse(data); !errors.Is(err, ErrTooNew) || !strings.Contains(err.Error(), "needs moult >= format 10") {
		t.Error(err)
	}
}
