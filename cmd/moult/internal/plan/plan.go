// Package plan tells what a rollout of a release would be, before it is one: what is done to
// each class, what becomes of the calls between its versions, and, with an agent to ask, which
// nodes go when. It changes nothing anywhere.
package plan

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"moult/store/bundle"
	"moult/store/bundle/archive"
)

// Report is `moult plan -o json`.
type Report struct {
	Version bundle.Version `json:"version"`
	Digest  bundle.Digest  `json:"digest"`
	Cluster bundle.Digest  `json:"cluster"`
	Expires time.Time      `json:"expires"`
	// FinalizeAfter is how long after all have settled, and are well, it finalizes itself; 0: never.
	FinalizeAfter bundle.Duration `json:"finalize_after,omitempty"`
	Classes       []Class         `json:"classes"`
	// Agent is the agent that the release brings; nil: none.
	Agent *Agent `json:"agent,omitempty"`
	Ring  *Ring  `json:"ring,omitempty"`
}

// Agent is the program that takes the place of the agents.
type Agent struct {
	Artifacts []Artifact `json:"artifacts"`
	// MaxUnavailable is how many are replaced at once, as the release says.
	MaxUnavailable string `json:"max_unavailable"`
	// Ordered is whether a signed order has agents replaced by it.
	Ordered bool `json:"ordered"`
}

// Take takes in what an agent knows.
func (r *Report) Take(ring *Ring) {
	r.Ring = ring
	if r.Agent != nil {
		r.Agent.Ordered = ring.agents == r.Version
	}
}

// Class is what the release does to one class.
type Class struct {
	Class     bundle.Class           `json:"class"`
	From      bundle.Version         `json:"from"`
	To        bundle.Version         `json:"to"`
	Artifacts []Artifact             `json:"artifacts"`
	Services  map[string]string      `json:"services"` // their protocols
	Transform string                 `json:"transform"`
	Exec      []string               `json:"transform_exec,omitempty"`
	Reverse   *bundle.Reverse        `json:"reverse,omitempty"`
	Schedule  string                 `json:"schedule"`
	Spec      bundle.ScheduleSpec    `json:"schedule_spec"`
	Facts     map[string]bundle.Fact `json:"facts,omitempty"`
	Calls     []Calls                `json:"calls"`
	Warnings  []string               `json:"warnings,omitempty"`
}

// Artifact is the software of a class for one platform.
type Artifact struct {
	Platform bundle.Platform `json:"platform"`
	Bytes    int64           `json:"bytes"`
	Chunks   int             `json:"chunks"`
}

// Calls says what becomes of the calls of one version's callers at nodes of
// another.
type Calls struct {
	Callers bundle.Version `json:"callers"`
	Nodes   bundle.Version `json:"nodes"`
	// Object is which object answers, "past" or "future", and Kind what it is.
	Object string `json:"object"`
	Kind   string `json:"kind"`
	// Fate is "simulated", "compatible" or "refused".
	Fate        string          `json:"fate"`
	Reason      string          `json:"reason,omitempty"`
	Rules       *Outline        `json:"rules,omitempty"`
	Bytes       int64           `json:"bytes,omitempty"` // of a wasm module
	Exec        []string        `json:"exec,omitempty"`
	Observe     bool            `json:"observe,omitempty"`
	RetireAfter bundle.Duration `json:"retire_after,omitempty"`
	// NotHTTP lists services that an object for http calls does not answer for.
	NotHTTP []string `json:"not_http,omitempty"`
}

// Fates of calls.
const (
	fateSimulated  = "simulated"
	fateCompatible = "compatible"
	fateRefused    = "refused"
)

// Of tells what the newest release of a bundle would do, without an agent to ask.
func Of(b *archive.Bundle) (*Report, error) {
	m := b.Head()
	return report(b, m, Report{Digest: bundle.Sum(b.ManifestBytes(m.Version)), Cluster: b.Trust().Cluster(), Expires: b.Trust().Expires()})
}

// report fills in what the manifest says. Without a bundle, nil, nothing is told of what is in
// its rules files.
func report(b *archive.Bundle, m *bundle.Manifest, head Report) (*Report, error) {
	r := &head
	r.Version, r.FinalizeAfter, r.Classes = m.Version, m.FinalizeAfter, []Class{}
	for _, name := range slices.Sorted(maps.Keys(m.Classes)) {
		cu := m.Classes[name]
		p := Class{
			Class: name, From: cu.From, To: m.Version, Services: map[string]string{},
			Transform: transformWords(cu), Exec: cu.Transform.Exec, Reverse: cu.Transform.Reverse, Schedule: ScheduleWords(cu.Schedule), Spec: cu.Schedule, Facts: cu.Facts, Calls: []Calls{}, Warnings: cu.Warnings(),
		}
		for _, a := range cu.Artifacts {
			p.Artifacts = append(p.Artifacts, Artifact{Platform: a.Platform, Bytes: a.Length, Chunks: len(a.Chunks)})
		}
		for service, s := range cu.Services {
			p.Services[service] = s.Protocol
		}
		if cu.From != 0 {
			past := Calls{Callers: cu.From, Nodes: m.Version, Object: "past", RetireAfter: cu.Past.Retire()}
			future := Calls{Callers: m.Version, Nodes: cu.From, Object: "future"}
			if err := errors.Join(past.fill(b, cu, cu.Past), future.fill(b, cu, cu.Future)); err != nil {
				return nil, err
			}
			p.Calls = append(p.Calls, past, future)
		}
		r.Classes = append(r.Classes, p)
	}
	if a := m.Agent; a != nil {
		r.Agent = &Agent{MaxUnavailable: a.MaxUnavailable}
		for _, art := range a.Artifacts {
			r.Agent.Artifacts = append(r.Agent.Artifacts, Artifact{Platform: art.Platform, Bytes: art.Length, Chunks: len(art.Chunks)})
		}
	}
	onlyForward := slices.DeleteFunc(slices.Sorted(maps.Keys(m.Classes)), func(c bundle.Class) bool { return m.Classes[c].Transform.Reverse != nil })
	for i := range r.Classes {
		if p := &r.Classes[i]; p.Reverse != nil && len(onlyForward) > 0 {
			p.Transform += fmt.Sprintf(", until a node of class %s is at it", onlyForward[0])
		}
	}
	return r, nil
}

// fill completes p by the simulation s of class upgrade cu.
func (p *Calls) fill(b *archive.Bundle, cu bundle.ClassUpgrade, s bundle.Simulation) error {
	p.Kind, p.Reason, p.Exec, p.Observe, p.Bytes = s.Kind, s.Reason, s.Exec, s.Observe, s.Wasm.Length
	switch s.Kind {
	case bundle.SimulateCompatible:
		p.Fate = fateCompatible
		return nil
	case bundle.SimulateRefuse:
		p.Fate = fateRefused
		return nil
	}
	p.Fate = fateSimulated
	if s.Kind == bundle.SimulateExec {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(cu.Services)) {
		if cu.Services[name].Protocol != bundle.ProtocolHTTP {
			p.NotHTTP = append(p.NotHTTP, name)
		}
	}
	if s.Kind != bundle.SimulateRules || b == nil {
		return nil
	}
	data, err := readPlanned(b, s.Rules)
	if err != nil {
		return err
	}
	if p.Rules, err = outlineRules(data, p.Object+".hcl"); err != nil {
		return fmt.Errorf("the %s rules of release %d: %w", p.Object, b.Head().Version, err)
	}
	return nil
}

// readPlanned reads a blob of the bundle, which has been checked.
func readPlanned(b *archive.Bundle, c bundle.Chunk) ([]byte, error) {
	r, ok := b.Blob(c.Digest)
	if !ok {
		return nil, fmt.Errorf("the bundle lacks %s", c.Digest.Short())
	}
	data, err := io.ReadAll(io.LimitReader(r, bundle.MaxRulesBytes))
	if err != nil {
		return nil, fmt.Errorf("read %s from the bundle: %w", c.Digest.Short(), err)
	}
	return data, nil
}

// words says in one line what becomes of the calls.
func (p Calls) words() string {
	switch p.Fate {
	case fateCompatible:
		return "pass as they are: the versions are compatible"
	case fateRefused:
		return "refused: " + p.Reason
	}
	var s string
	switch p.Kind {
	case bundle.SimulateRules:
		s = "simulated by " + p.Rules.words()
	case bundle.SimulateWasm:
		s = fmt.Sprintf("simulated by a wasm module of %d bytes", p.Bytes)
	default:
		s = "simulated by " + strings.Join(p.Exec, " ")
	}
	if p.Observe {
		s += "; it sees the nodes' own calls too, which are relayed for that"
	}
	if len(p.NotHTTP) > 0 {
		s += "; refused at " + strings.Join(p.NotHTTP, ", ") + ", which do not speak http"
	}
	return s
}
