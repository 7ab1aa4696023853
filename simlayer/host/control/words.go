package control

import (
	"fmt"
	"net/http"
	"time"

	"moult/simlayer/so"
	"moult/store/bundle"
)

// Kinds of object, as a release names them.
const (
	KindRules      = "rules"
	KindWasm       = "wasm"
	KindExec       = "exec"
	KindCompatible = "compatible"
	KindRefuse     = "refuse"
)

// Order is what the agent tells the object host: always all of it.
type Order struct {
	Generation uint64        `json:"generation"`
	Hold       time.Duration `json:"hold"`
	Objects    []Hosted      `json:"objects"`
	// Native is the version of the node's software.
	Native bundle.Version `json:"native"`
	// Ends has where calls go of versions that no object in the process answers,
	// by service.
	Ends map[bundle.Version]map[string]string `json:"ends"`
	// Sockets lists all listening sockets by name; those in Passed come with the
	// frame, in that order.
	Sockets map[string]Listener `json:"sockets"`
	Passed  []string            `json:"passed"`
	// Cache is the folder of compiled wasm.
	Cache string `json:"cache,omitempty"`
}

// Hosted is an object of the object host.
type Hosted struct {
	Version bundle.Version `json:"version"`
	To      bundle.Version `json:"to"`
	Kind    string         `json:"kind"`
	Path    string         `json:"path,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	State   string         `json:"state,omitempty"`
	Observe string         `json:"observe,omitempty"`
	Memory  int64          `json:"memory,omitempty"`
	Timeout time.Duration  `json:"timeout,omitempty"`
}

// Listener says who is answered at a socket.
type Listener struct {
	Version bundle.Version `json:"version"`
	Service string         `json:"service"`
}

// Report is what the object host tells the agent.
type Report struct {
	// Generation is that of the order in force.
	Generation uint64                    `json:"generation"`
	Objects    map[bundle.Version]Figure `json:"objects"`
}

// Figure is how one object does.
type Figure struct {
	// Problem says why the object answers nothing; "" where it does.
	Problem  string        `json:"problem,omitempty"`
	Calls    uint64        `json:"calls"`
	Denied   uint64        `json:"denied"`
	Errors   uint64        `json:"errors"`
	Latency  time.Duration `json:"latency"`
	InFlight int           `json:"in_flight"`
	Oldest   time.Duration `json:"oldest"`
}

// Plus adds what a process has counted that has ended; what was under way in f has
// failed with it.
func (a Figure) Plus(f Figure) Figure {
	a.Calls += f.Calls + uint64(f.InFlight)
	a.Errors += f.Errors + uint64(f.InFlight)
	a.Denied += f.Denied
	a.Latency += f.Latency
	return a
}

// Down is what callers are told while a process is not there.
func Down(v, to bundle.Version, format string, args ...any) *so.Refusal {
	r := so.Fail(http.StatusServiceUnavailable, nil, "the simulation object for version %d is not running: %s; try again later", v, fmt.Sprintf(format, args...))
	r.From, r.To, r.RetryAfter = v, to, RetryAfter
	return r
}
