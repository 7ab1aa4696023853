package control

import (
	"moult/store/bundle"
	"time"
)

// AgentsStatus counts the nodes whose agents are replaced by that of a release.
type AgentsStatus struct {
	Release bundle.Version `json:"release"`
	Total   int            `json:"total"`
	// Done need it no more: they run it, or have run it, or there is none for their platform.
	Done   int `json:"done"`
	Budget int `json:"budget"`
	// Trying and Failed are names of nodes.
	Trying []string `json:"trying"`
	Failed []string `json:"failed"`
	// Words say it in a line, with the way out where some have failed.
	Words string `json:"words"`
}

// AgentBuild tells which program an agent is, and which were put back.
type AgentBuild struct {
	Digest bundle.Digest `json:"digest"`
	// Release is the release that has brought it; 0: none has. Packaged tells that it is the one that the
	// service manager starts.
	Release  bundle.Version `json:"release,omitempty"`
	Packaged bool           `json:"packaged"`
	// OnTrial: it has taken over for the time of a trial.
	OnTrial bool          `json:"on_trial,omitempty"`
	Failed  []FailedBuild `json:"failed,omitempty"`
}

// FailedBuild is a build of the agent that was put back.
type FailedBuild struct {
	Digest  bundle.Digest  `json:"digest"`
	Release bundle.Version `json:"release,omitempty"`
	Reason  string         `json:"reason"`
	At      time.Time      `json:"at"`
	// Interrupted: nothing was found wrong with it, the trial was interrupted. Times is how often it has
	// failed.
	Interrupted bool `json:"interrupted,omitempty"`
	Times       int  `json:"times"`
}

// Replacing answers who wants an agent replaced.
type Replacing struct {
	// Digest is that of the build; Runs tells that it is what runs already. If not, it is on trial
	// since Begun, for at most Deadline.
	Digest   bundle.Digest   `json:"digest"`
	Runs     bool            `json:"runs"`
	Begun    time.Time       `json:"begun,omitzero"`
	Deadline bundle.Duration `json:"deadline"`
}
