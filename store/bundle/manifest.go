package bundle

import (
	"cmp"
	"fmt"
)

// Formats of a manifest. A manifest is written in the lowest format that can say
// it (LowestFormat), so that agents of an older moult read what they can.
const (
	// FormatVersion is the first format.
	FormatVersion = 1
	// FormatObjects added wasm and exec objects, what they may use, observation,
	// retirement after another time than the default, and services over UDP.
	FormatObjects = 2

	// FormatWithdrawn added releases that take a class from before the version that
	// they follow, since what lies between was withdrawn.
	FormatWithdrawn = 3

	// FormatPlaceholders added what a command is filled in with beside the state and
	// addresses (package placeholder), and a way to write ${.
	FormatPlaceholders = 4

	// FormatWindows added schedules with windows, and with classes that settle first.
	FormatWindows = 5

	// FormatRehearsal added rehearsals.
	FormatRehearsal = 6

	// FormatReverse added releases that can be taken back, and are finalized, and FormatFacts, with the same
	// number, facts, and schedules with conditions over them.
	FormatReverse = 7
	FormatFacts   = 7

	// FormatWaves, of the same moult, added schedules with more waves than a canary, and
	// with a bound within each value of a label.
	FormatWaves = FormatReverse

	// FormatHooks added programs that are run before software is stopped and once it is up.
	FormatHooks = 8

	// FormatFinalizeAfter added releases that are finalized by their own word, and schedules with
	// a time in which a rollout must get on.
	FormatFinalizeAfter = 9

	// FormatAgent added releases that replace the agents, and may change no class.
	FormatAgent = 10

	// NewestFormat is the newest that this code reads.
	NewestFormat = FormatAgent
)

// Manifest describes one release. Its canonical JSON (MarshalManifest) is what
// the publisher's TUF targets metadata names by hash and length.
type Manifest struct {
	// Format is the manifest's LowestFormat.
	Format int `json:"format"`
	// Version is what the system is at after this release.
	Version Version `json:"version"`
	// Previous is the digest of the manifest of Version-1; zero for the first
	// release that the publisher ever made for this cluster.
	Previous Digest `json:"previous"`
	// FinalizeAfter is how long all nodes must have been settled and well, by each agent's own
	// clock, for the release to be finalized without another word; 0: it is not. Since
	// FormatFinalizeAfter.
	FinalizeAfter Duration `json:"finalize_after,omitempty"`
	// Classes holds one class upgrade per class that changes. A class that is
	// absent keeps its software and becomes Version as it is.
	Classes map[Class]ClassUpgrade `json:"classes"`
	// Agent replaces the agents; nil: they stay. Since FormatAgent.
	Agent *AgentUpgrade `json:"agent,omitempty"`
}

// ClassUpgrade takes the nodes of one class from version From to the
// manifest's version.
type ClassUpgrade struct {
	// From is the manifest's version - 1; less where the releases between are
	// withdrawn (see Withdrawn.From); 0 where the class is installed for the first time.
	From Version `json:"from"`
	// Artifacts holds one artifact per platform, sorted by platform.
	Artifacts []Artifact `json:"artifacts"`
	// Command starts the software: argv, run in the unpacked artifact's
	// folder. ${state} and ${service.NAME} are replaced by the slot's folder
	// and the address to listen on; with Placeholders there is more.
	Command   []string           `json:"command"`
	Services  map[string]Service `json:"services"`
	Health    Health             `json:"health"`
	Transform Transform          `json:"transform"`
	// Past answers callers of From on nodes that run the new version; Future
	// answers callers of the new version on nodes that still run From.
	Past     Simulation   `json:"past"`
	Future   Simulation   `json:"future"`
	Schedule ScheduleSpec `json:"schedule"`
	// Rehearse has each node run the release on a copy of its own state before it goes
	// down; nil: none does. Since FormatRehearsal.
	Rehearse *Rehearse `json:"rehearse,omitempty"`
	// Finalized is argv, run beside the software of each node once the operator has said that
	// the release will not be taken back; it may be run again. It has MOULT_STATE and
	// MOULT_SERVICE_NAME in its environment, and as long as a transform. Since FormatReverse.
	Finalized []string `json:"finalized,omitempty"`
	// Hooks are run when an upgrade stops and starts this software. Since FormatHooks.
	Hooks Hooks `json:"hooks,omitzero"`
	// Facts are numbers that the nodes publish of themselves while they run this software,
	// and, as far as they are asked by http, while they wait for it. Since FormatFacts.
	Facts map[string]Fact `json:"facts,omitempty"`
	// Placeholders is true where Command and Health.Exec have the form of package
	// placeholder, since what they say cannot be said without; since FormatPlaceholders.
	Placeholders bool `json:"placeholders,omitempty"`
}

// Hooks are programs, each an argv, that are run beside the software. They have MOULT_STATE and
// MOULT_SERVICE_NAME in their environment, and may be run again after a crash.
type Hooks struct {
	// PreStop is run before calls are held, where the node goes from this software to
	// another. As long as it fails the software is not stopped.
	PreStop []string `json:"pre_stop,omitempty"`
	// PostStart is run when an upgrade has started this software and it is healthy, before
	// callers are let in: where it fails they never are.
	PostStart []string `json:"post_start,omitempty"`
	// Timeout bounds each.
	Timeout Duration `json:"timeout"`
}

// IsZero reports whether there are none.
func (h Hooks) IsZero() bool { return len(h.PreStop) == 0 && len(h.PostStart) == 0 && h.Timeout == 0 }

// Artifact is a tar of the software for one platform, cut into chunks. The
// chunks in order are exactly the tar.
type Artifact struct {
	Platform
	Digest Digest  `json:"digest"`
	Length int64   `json:"length"`
	Chunks []Chunk `json:"chunks"`
}

// Chunk names some bytes by content.
type Chunk struct {
	Digest Digest `json:"digest"`
	Length int64  `json:"length"`
}

// Protocols of a service.
const (
	ProtocolHTTP = "http" // HTTP/1.1: held and simulated call by call
	ProtocolTCP  = "tcp"  // any stream: held and relayed by connection
	ProtocolUDP  = "udp"  // packets: relayed by the caller's address; since FormatObjects
)

// Service is one thing that the software listens for.
type Service struct {
	Protocol string `json:"protocol"`
}

// Health says when the software counts as ready and as healthy. Exactly one of
// HTTP, TCP, Exec and Notify is set.
type Health struct {
	// HTTP is a path that must answer 2xx on Service.
	HTTP string `json:"http,omitempty"`
	// TCP is true where it is enough that the software accepts a connection on Service.
	TCP bool `json:"tcp,omitempty"`
	// Exec is argv that must exit 0, run as Command is.
	Exec []string `json:"exec,omitempty"`
	// Notify is true where the software reports READY=1 in the manner of sd_notify.
	Notify bool `json:"notify,omitempty"`
	// Service is the name of the service that HTTP and TCP ask.
	Service string `json:"service,omitempty"`
	// Interval is the time between two checks.
	Interval Duration `json:"interval"`
	// MinHealthyTime is how long it must stay healthy, calls admitted, to settle.
	MinHealthyTime Duration `json:"min_healthy_time"`
	// HealthyDeadline is how long it may take from start to the first healthy check.
	HealthyDeadline Duration `json:"healthy_deadline"`
	// DrainTimeout is how long calls that have begun have to end before new ones are
	// held, and then the software to end by itself after SIGTERM.
	DrainTimeout Duration `json:"drain_timeout"`
}

// Copies reports whether the class upgrade takes the state over as it is.
func (cu ClassUpgrade) Copies() bool { return cu.From != 0 && len(cu.Transform.Exec) == 0 }

// Warnings says what of a class upgrade is allowed and seldom meant.
func (cu ClassUpgrade) Warnings() []string {
	var warnings []string
	if len(cu.Transform.Exec) > 0 && cu.Rehearse == nil {
		warnings = append(warnings, "it transforms the state, and has no rehearse block: what is wrong with it shows only on nodes that are down; rehearse {} has each node try it on a copy of its own state first")
	}
	drain, hold := cu.Health.DrainTimeout, cu.Schedule.HoldTimeout
	// A third of hold may pass until the last calls have ended, and a sixth is for the
	// transform and the start.
	if cu.From == 0 || len(cu.Services) == 0 || drain <= hold/2 {
		return warnings
	}
	return append(warnings, fmt.Sprintf("software that takes all of its drain_timeout (%s) to end has callers refused, who wait for at most hold_timeout (%s), for their last calls and for the new software too: give it half of that at most, or them more", drain, hold))
}

// Transform makes the new state from the old. Without Exec the old slot is
// copied as it is.
type Transform struct {
	// Exec is argv, run in the unpacked new artifact's folder with MOULT_OLD,
	// MOULT_NEW, MOULT_FROM and MOULT_TO in its environment. Exit 0 is done,
	// 21 is "try later", anything else is failure.
	Exec []string `json:"exec,omitempty"`
	// Timeout ends the whole process group.
	Timeout Duration `json:"timeout"`
	// MemoryMax and DiskMax bound the transform, in bytes; 0 is no bound of
	// the release's own.
	MemoryMax int64 `json:"memory_max,omitempty"`
	DiskMax   int64 `json:"disk_max,omitempty"`
	// Reverse makes the old state from the new, so that the release can be taken back; nil:
	// it cannot. It has the bounds above. Since FormatReverse.
	Reverse *Reverse `json:"reverse,omitempty"`
}

// Reverse takes the state back. Without Exec the new slot is copied as it is.
type Reverse struct {
	// Exec is argv, run as Transform.Exec is. It finds the new state in MOULT_OLD and makes
	// the old one in MOULT_NEW; what that cannot hold it puts into MOULT_COMPLEMENT, where
	// Transform.Exec finds it when the node goes forward again.
	Exec []string `json:"exec,omitempty"`
}

// Rehearse says how a node tries the release on a copy of its own state, with no caller
// and no way out, while its software runs on.
type Rehearse struct {
	// Snapshot is argv, run in the unpacked new artifact's folder, that makes a copy of
	// the live state: it finds that in MOULT_OLD, and fills MOULT_NEW. Without, moult
	// copies the files as they are.
	Snapshot []string `json:"snapshot,omitempty"`
	// Check is argv, run there once the software is healthy on the transformed copy, that
	// must exit 0. It finds the addresses in its environment.
	Check []string `json:"check,omitempty"`
	// Timeout ends the rehearsal, which has failed then.
	Timeout Duration `json:"timeout"`
}

// Kinds of Simulation. The last three are all that can answer callers of a
// service that does not speak http.
const (
	SimulateRules      = "rules"      // Rules is a rules file
	SimulateWasm       = "wasm"       // Wasm is a module; since FormatObjects
	SimulateExec       = "exec"       // Exec is a program; since FormatObjects
	SimulateCompatible = "compatible" // calls pass unchanged
	SimulateRefuse     = "refuse"     // calls are refused with Reason
)

// Simulation says how the callers of a neighbouring version are answered.
type Simulation struct {
	Kind string `json:"kind"`
	// Rules is the blob of the rules file, for SimulateRules.
	Rules  Chunk  `json:"rules"`
	Reason string `json:"reason,omitempty"`

	// The rest is there since FormatObjects.

	// Wasm is the blob of the module, for SimulateWasm.
	Wasm Chunk `json:"wasm,omitzero"`
	// Exec is argv, run in the unpacked artifact of this release, for
	// SimulateExec. The program finds what it needs in its environment; nothing
	// in argv is replaced.
	Exec []string `json:"exec,omitempty"`
	// Observe is true where the object wants to see the calls of the node's own
	// version, because its state follows from them; only in Future.
	Observe bool `json:"observe,omitempty"`
	// RetireAfter is how long no call must have come before the object is
	// retired; 0 is DefaultRetireAfter. Only in Past.
	RetireAfter Duration `json:"retire_after,omitempty"`
	// MemoryMax bounds a wasm instance or an exec program, in bytes; 0 is
	// moult's own bound.
	MemoryMax int64 `json:"memory_max,omitempty"`
	// Timeout bounds what a wasm object may compute for one call, its own calls
	// of the next version not counted; 0 is moult's own bound.
	Timeout Duration `json:"timeout,omitempty"`
}

// Blob returns the blob that the object is made of; false where it needs none.
func (s Simulation) Blob() (Chunk, bool) {
	switch s.Kind {
	case SimulateRules:
		return s.Rules, true
	case SimulateWasm:
		return s.Wasm, true
	}
	return Chunk{}, false
}

// ObjectFiles lists the blobs that the objects of a class upgrade are made of.
func (c ClassUpgrade) ObjectFiles() (blobs []Chunk) {
	for _, s := range []Simulation{c.Past, c.Future} {
		if blob, ok := s.Blob(); ok {
			blobs = append(blobs, blob)
		}
	}
	return blobs
}

// Stateful reports whether the object may have durable state.
func (s Simulation) Stateful() bool { return s.Kind == SimulateWasm || s.Kind == SimulateExec }

// Retire returns RetireAfter or its default.
func (s Simulation) Retire() Duration { return cmp.Or(s.RetireAfter, DefaultRetireAfter) }

func (s Simulation) format() int {
	if s.Stateful() || s.Wasm != (Chunk{}) || len(s.Exec) > 0 || s.Observe || s.RetireAfter != 0 || s.MemoryMax != 0 || s.Timeout != 0 {
		return FormatObjects
	}
	return FormatVersion
}

// Strategies of a schedule.
const (
	StrategyRolling = "rolling" // ranked roster, at most MaxUnavailable down
	StrategyAtOnce  = "at-once" // every node as soon as it is staged; bounds nothing
	StrategyManual  = "manual"  // a node goes when the order names it as allowed
	// StrategyRandom has each node go by chance, so that about Rate of them do in an hour.
	// It bounds nothing. Since FormatWaves.
	StrategyRandom = "random"
)

// ScheduleSpec is the schedule as the release's author wrote it. The rollout
// order instantiates it for a roster.
type ScheduleSpec struct {
	Strategy string `json:"strategy"`
	// MaxUnavailable is "3" or "10%" (of the roster, rounded down, at least 1).
	MaxUnavailable string `json:"max_unavailable"`
	// Canary nodes go first, and the others wait Soak after the last of them settled.
	Canary int      `json:"canary,omitempty"`
	Soak   Duration `json:"soak,omitempty"`
	// FailureMax held nodes stop the rollout of the class.
	FailureMax int `json:"failure_max"`
	// ProgressDeadline is how long a rollout may go without another settled node before that
	// counts as one that has failed; 0: for ever. Since FormatFinalizeAfter.
	ProgressDeadline Duration `json:"progress_deadline,omitempty"`
	// HoldTimeout is how long a call may wait while a node is down.
	HoldTimeout Duration `json:"hold_timeout"`
	// Windows are when nodes may go down; none for always. Since FormatWindows.
	Windows []Window `json:"windows,omitempty"`
	// After are classes of the same release whose nodes settle first, sorted. Since
	// FormatWindows.
	After []Class `json:"after,omitempty"`
	// When is a condition (package expr) without which no node goes down, HoldIf one under
	// which none does; "" for none. Since FormatFacts.
	When   string `json:"when,omitempty"`
	HoldIf string `json:"hold_if,omitempty"`
	// Waves are what a canary alone cannot say; Spread, if not nil, is a second bound. Since
	// FormatWaves.
	Waves  []Wave  `json:"waves,omitempty"`
	Spread *Spread `json:"spread,omitempty"`
	// Rate is how many nodes go in an hour, about, under StrategyRandom.
	Rate int `json:"rate,omitempty"`
}

// Artifact returns the artifact for a platform.
func (c ClassUpgrade) Artifact(p Platform) (Artifact, bool) {
	for _, a := range c.Artifacts {
		if a.Platform == p {
			return a, true
		}
	}
	return Artifact{}, false
}

// LowestFormat returns the lowest format that can say what m says.
func (m *Manifest) LowestFormat() int {
	format := FormatVersion
	if m.FinalizeAfter != 0 {
		format = FormatFinalizeAfter
	}
	if m.Agent != nil {
		format = FormatAgent
	}
	for _, c := range m.Classes {
		format = max(format, c.Past.format(), c.Future.format())
		if c.From != 0 && c.From+1 < m.Version {
			format = max(format, FormatWithdrawn)
		}
		if c.Placeholders {
			format = max(format, FormatPlaceholders)
		}
		if len(c.Schedule.Windows) > 0 || len(c.Schedule.After) > 0 {
			format = max(format, FormatWindows)
		}
		if c.Rehearse != nil {
			format = max(format, FormatRehearsal)
		}
		if c.Transform.Reverse != nil || len(c.Finalized) > 0 {
			format = max(format, FormatReverse)
		}
		if len(c.Facts) > 0 || c.Schedule.When != "" || c.Schedule.HoldIf != "" {
			format = max(format, FormatFacts)
		}
		if len(c.Schedule.Waves) > 0 || c.Schedule.Spread != nil || c.Schedule.Strategy == StrategyRandom {
			format = max(format, FormatWaves)
		}
		if c.Schedule.ProgressDeadline != 0 {
			format = max(format, FormatFinalizeAfter)
		}
		if !c.Hooks.IsZero() {
			format = max(format, FormatHooks)
		}
		for _, s := range c.Services {
			if s.Protocol == ProtocolUDP {
				format = max(format, FormatObjects)
			}
		}
	}
	return format
}
