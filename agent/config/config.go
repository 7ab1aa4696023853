package config

import (
	"os"
	"time"

	"moult/agent/account/bounds"
	"moult/store/bundle"
)

// Config is all that an agent is told. It is a value; an Agent keeps its own copy.
type Config struct {
	File      string // where all this stands; empty: in no file
	Name      string
	Class     bundle.Class
	Data      string // the data folder
	Root      string // the file of the cluster's first root
	GossipKey string // the file of the ring's shared secret; empty: derived from the root, so not secret
	OpenRing  bool   // every node counts, whoever is enrolled
	JoinToken string // the file of a token that enrols this node; empty: none
	Bind      string // host:port, one port for UDP and TCP
	Advertise string // host:port that peers use; empty: Bind
	Join      []string
	Labels    map[string]string
	// Env is for the node's programs. Its values have the form of package placeholder;
	// those that name the state or a service are for the software and its checks.
	Env map[string]string
	// Args and Vars are what a command is filled in with on this node: Args of the form
	// of package placeholder, Vars texts.
	Args     []string
	Vars     map[string]string
	Services map[string]Service
	Adopt    *Adopt
	// API is a TCP host:port for the control API beside the socket; empty: none.
	// APIToken is the file of the token that its callers need; empty: none, and the
	// address must be this machine's alone.
	API, APIToken string
	// Metrics is the TCP host:port at which Prometheus is answered; empty: none.
	Metrics string
	// OnEvent is a command that is told what happens (see package notify), as the agent's
	// user; empty: none.
	OnEvent []string
	// User is who runs the node's programs, Group and Groups what that user is in; ""
	// is the agent's own user.
	User, Group string
	Groups      []string
	// Bounds are what the node's programs are held to; nil: nothing.
	Bounds *bounds.Bounds
	// Readable and Writable are absolute paths that transforms, checks of rehearsals and
	// programs of simulation objects may read, or write to as well, beside their own
	// folders and the system's.
	Readable, Writable []string
	// Egress is how the node's calls find a peer's address for its version; one
	// of the Egress words.
	Egress string
	// EgressOpen lets all programs of the machine call by the proxy, where that is the way.
	EgressOpen bool

	// SyncInterval is the time between two anti-entropy exchanges.
	SyncInterval time.Duration
	// FirstSync is how long a node that has never served waits for the ring
	// before it starts without news from it.
	FirstSync time.Duration
}

// Adopt describes software that ran before moult looked after it.
type Adopt struct {
	Version  bundle.Version
	Command  []string // like Health.Exec of the form of package placeholder
	State    string
	Services map[string]bundle.Service
	Health   bundle.Health
}

// Default returns the values that a config file need not give.
func Default() Config {
	name, err := os.Hostname()
	if err != nil {
		name = ""
	}
	return Config{
		Name:         name,
		Data:         "/var/lib/moult",
		Bind:         "0.0.0.0:7946",
		Egress:       EgressAuto,
		SyncInterval: 10 * time.Second,
		FirstSync:    15 * time.Second,
	}
}

// DefaultHealth returns the times of a health block that gives none.
func DefaultHealth() bundle.Health {
	return bundle.Health{
		Interval:        bundle.Duration(time.Second),
		MinHealthyTime:  bundle.Duration(10 * time.Second),
		HealthyDeadline: bundle.Duration(5 * time.Minute),
		DrainTimeout:    bundle.Duration(15 * time.Second),
	}
}
