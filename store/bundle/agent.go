package bundle

import "fmt"

// AgentProgram is what the program of an agent is called in its artifact, which holds
// nothing else.
const AgentProgram = "moult"

// AgentUpgrade replaces the program of the agents, on each node by the artifact of its
// platform; where there is none the agent stays. It takes no node down. Since FormatAgent.
type AgentUpgrade struct {
	// Artifacts holds one per platform, sorted by platform.
	Artifacts []AgentArtifact `json:"artifacts"`
	// MaxUnavailable is at how many nodes at once an agent may be replaced, of all classes
	// together: "3", or "10%" (of the nodes, rounded down, at least 1).
	MaxUnavailable string `json:"max_unavailable"`
	// HealthyDeadline is how long an agent on trial has until it is well; else it is put back.
	HealthyDeadline Duration `json:"healthy_deadline"`
}

// AgentArtifact is an artifact of one file, AgentProgram.
type AgentArtifact struct {
	Artifact
	// Program is the digest of that file, as sha256sum prints it: by it an agent knows
	// whether it runs it already.
	Program Digest `json:"program"`
}

// Artifact returns the agent for a platform.
func (a *AgentUpgrade) Artifact(p Platform) (AgentArtifact, bool) {
	if a == nil {
		return AgentArtifact{}, false
	}
	for _, art := range a.Artifacts {
		if art.Platform == p {
			return art, true
		}
	}
	return AgentArtifact{}, false
}

// plain returns the artifacts without their programs.
func (a *AgentUpgrade) plain() (all []Artifact) {
	if a == nil {
		return nil
	}
	for _, art := range a.Artifacts {
		all = append(all, art.Artifact)
	}
	return all
}

// Software lists all artifacts of a release: of its classes, and of the agent.
func (m *Manifest) Software() (all []Artifact) {
	for _, cu := range m.Classes {
		all = append(all, cu.Artifacts...)
	}
	return append(all, m.Agent.plain()...)
}

func (v *validator) agent(path string, a *AgentUpgrade) {
	if a == nil {
		return
	}
	v.artifacts(path+".artifacts", a.plain())
	for i, art := range a.Artifacts {
		v.fail(art.Program.IsZero(), fmt.Sprintf("%s.artifacts[%d].program", path, i), "empty")
	}
	v.fail(!ValidUnavailable(a.MaxUnavailable), path+".max_unavailable", `%.40q, want a count such as "2" or a share such as "10%%"`, a.MaxUnavailable)
	v.duration(path+".healthy_deadline", a.HealthyDeadline, MinAgentDeadline, MaxAgentDeadline)
}
