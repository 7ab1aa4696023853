package metrics

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"moult/agent/control"
	"moult/gossip/view"
	"moult/simlayer/tally"
	"moult/store/bundle"
)

// A Snapshot is what a scrape shows.
type Snapshot struct {
	Status control.Status
	// Node is the agent itself.
	Node bundle.NodeID
	// Services are the calls by service and version of the caller, and Took those among them
	// of which it is known how long they took.
	Services map[string]map[bundle.Version]tally.Calls
	Took     map[string]map[bundle.Version]tally.Histograms
	// Fetched are the bytes of releases that came from other peers, Taken those that bundles
	// brought, and Served what other peers were sent.
	Fetched, Taken, Served int64
	// Gossip has the bytes between agents, by kind.
	Gossip map[string]Moved
	// Database and Depot are the bytes that they hold, FreeBytes those that are left where the
	// data folder is, or less than 0 where that cannot be told.
	Database, Depot, FreeBytes int64
	// InFlight calls are at the node's software now, and Held ones wait for it, the longest
	// of those that wait no more for LongestHold.
	InFlight, Held int
	LongestHold    time.Duration
}

// Moved are bytes that came in and went out.
type Moved struct{ In, Out int64 }

// A Source takes a snapshot. It is called by several goroutines at once.
type Source func(ctx context.Context) (Snapshot, error)

// maxVersions bounds in how many versions nodes are shown to be.
const maxVersions = 8

// A metric of the table: what it is called, and what its labels are.
type metric struct {
	name, help string
	kind       kind
	labels     []string
}

type kind string

const (
	gauge     kind = "gauge"
	counter   kind = "counter"
	histogram kind = "histogram"
)

// The metrics, as docs/metrics.md has them.
var (
	agentInfo      = metric{"moult_agent_info", "Always 1; says which agent this is.", gauge, []string{"node", "id", "class"}}
	alarms         = metric{"moult_alarms", "Alarms that this agent raises now; `moult status` says which.", gauge, nil}
	nodePhase      = metric{"moult_node_phase", "1 for the phase of this agent's node, 0 for all others.", gauge, []string{"phase"}}
	nodeHealth     = metric{"moult_node_health", "1 for the health of this agent's node, 0 for all others.", gauge, []string{"state"}}
	nodeVersion    = metric{"moult_node_version", "The version that this agent's node says it is at.", gauge, nil}
	nodeRunning    = metric{"moult_node_running_version", "The release whose software runs here; 0 for none.", gauge, nil}
	nodeTarget     = metric{"moult_node_target_version", "The release that this agent's node goes to; 0 for none.", gauge, nil}
	nodeProgress   = metric{"moult_node_progress_ratio", "How much of its phase is behind this agent's node, from 0 to 1.", gauge, nil}
	releaseVersion = metric{"moult_release_version", "The newest release that rolls or has rolled; 0 for none.", gauge, nil}
	releaseState   = metric{"moult_release_state", "1 for the state of that release as this agent sees it, 0 for all others.", gauge, []string{"state"}}
	releaseSettled = metric{"moult_release_settled", "Nodes that are at that release, well or not, as this agent sees them.", gauge, nil}
	releaseAgents  = metric{"moult_release_agents", "Nodes whose agents that release's rollout order replaces, by how far they are, as this agent sees them: done, trying, failed or waiting.", gauge, []string{"state"}}
	classNodes     = metric{"moult_class_nodes", "Nodes of a class by how far they are with that release, as this agent sees them.", gauge, []string{"class", "state"}}
	classBudget    = metric{"moult_class_budget", "Nodes of a class that may be down at once; 0 without a rollout order.", gauge, []string{"class"}}
	nodesAt        = metric{"moult_nodes", "Nodes that this agent knows, by class and version.", gauge, []string{"class", "version"}}
	unreachable    = metric{"moult_nodes_unreachable", "Nodes that count, and that this agent cannot reach now.", gauge, []string{"class"}}
	calls          = metric{"moult_calls_total", "Calls that came through this agent and have ended, by service, version of the caller and outcome: answered, denied by an object's author, failed, or canceled by the caller.", counter, []string{"service", "callers", "outcome"}}
	callDuration   = metric{"moult_call_duration_seconds", "How long those calls took, waits for the node included: a raw connection until it ended, a datagram only what it waited. Outcomes that have not occurred are not there.", histogram, []string{"service", "callers", "outcome"}}
	callsOpen      = metric{"moult_calls_open", "Calls that go on.", gauge, []string{"service", "callers"}}
	callsHeld      = metric{"moult_calls_held", "Calls that wait for the node's software.", gauge, nil}
	callsInFlight  = metric{"moult_calls_in_flight", "Calls that are at the node's software.", gauge, nil}
	holds          = metric{"moult_holds_total", "Calls that have ended and had waited for the node's software.", counter, []string{"service", "callers"}}
	holdSeconds    = metric{"moult_hold_seconds_total", "How long those waited together.", counter, []string{"service", "callers"}}
	longestHold    = metric{"moult_calls_longest_hold_seconds", "The longest that a call was held since the agent began.", gauge, nil}
	objectCalls    = metric{"moult_object_calls_total", "Calls that came to a simulation object of this node, by the version of its callers, its side and outcome.", counter, []string{"callers", "side", "outcome"}}
	objectState    = metric{"moult_object_state", "1 for the state of a simulation object, 0 for all others.", gauge, []string{"callers", "side", "state"}}
	objectRestarts = metric{"moult_object_restarts_total", "Restarts of a simulation object's process.", counter, []string{"callers", "side"}}
	fetched        = metric{"moult_fetched_bytes_total", "Bytes of releases that came here, from other peers or by a bundle that was handed to this agent.", counter, []string{"source"}}
	served         = metric{"moult_served_bytes_total", "Bytes of releases that other peers were sent.", counter, nil}
	gossipBytes    = metric{"moult_gossip_bytes_total", "Bytes between this agent and others: packets and streams of the ring, and requests between peers, of which releases are a part.", counter, []string{"kind", "direction"}}
	viewRecords    = metric{"moult_view_records", "Signed records of nodes that this agent holds.", gauge, nil}
	stored         = metric{"moult_stored_bytes", "Bytes that the data folder holds in its database, and in its depot of releases, where an artifact counts packed and unpacked.", gauge, []string{"part"}}
	free           = metric{"moult_data_free_bytes", "Bytes that are free where the data folder is.", gauge, nil}
	expires        = metric{"moult_metadata_expiry_timestamp_seconds", "When the first of the signed metadata in force expires, in seconds since 1970: from then on nothing new starts.", gauge, nil}
	lasts          = metric{"moult_metadata_lasts_timestamp_seconds", "The same apart from the timestamp, which may be meant to be signed anew every few hours.", gauge, nil}
)

// all lists them.
var all = []metric{
	agentInfo, alarms, nodePhase, nodeHealth, nodeVersion, nodeRunning, nodeTarget, nodeProgress,
	releaseVersion, releaseState, releaseSettled, releaseAgents, classNodes, classBudget, nodesAt, unreachable,
	calls, callDuration, callsOpen, callsHeld, callsInFlight, holds, holdSeconds, longestHold, objectCalls, objectState, objectRestarts,
	fetched, served, gossipBytes, viewRecords, stored, free, expires, lasts,
}

func (m metric) desc() *prometheus.Desc { return prometheus.NewDesc(m.name, m.help, m.labels, nil) }

// states are the values of labels that have one value at a time.
var (
	releaseStates = []string{control.StateNone, control.StateSpreading, control.StateRolling, control.StatePaused, control.StateHeld, control.StateAborted, control.StateComplete}
	healths       = []string{string(view.HealthUnknown), string(view.HealthWell), string(view.HealthNotReady), string(view.HealthRestarting), string(view.HealthFailing)}
	objectStates  = []string{control.ObjectRunning, control.ObjectStarting, control.ObjectRestarting, control.ObjectIdle, control.ObjectWaiting, control.ObjectBroken}
)

// sink sends what a snapshot says.
type sink chan<- prometheus.Metric

func (s sink) put(m metric, value float64, labels ...string) {
	is := prometheus.GaugeValue
	if m.kind == counter {
		is = prometheus.CounterValue
	}
	s <- prometheus.MustNewConstMetric(m.desc(), is, value, labels...)
}

// oneOf puts 1 for the value that holds, and 0 for the others; labels come before it.
func (s sink) oneOf(m metric, values []string, holds string, labels ...string) {
	for _, v := range values {
		s.put(m, boolean(v == holds), append(labels[:len(labels):len(labels)], v)...)
	}
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// send sends all metrics of a snapshot.
func (s sink) send(x Snapshot) {
	st := x.Status
	s.put(agentInfo, 1, st.Local.Name, x.Node.String(), string(st.Local.Class))
	s.put(alarms, float64(len(st.Alarms)))
	for _, n := range st.Nodes {
		if n.ID == x.Node {
			s.node(n)
		}
	}
	s.put(releaseVersion, float64(st.Release.Version))
	s.oneOf(releaseState, releaseStates, st.Release.State)
	s.classes(st)
	for name, service := range st.Local.Services {
		s.service(name, service)
	}
	for name, versions := range x.Services {
		for v, c := range versions {
			s.put(holds, float64(c.Held), name, callers(v))
			s.put(holdSeconds, c.Waited.Seconds(), name, callers(v))
		}
	}
	for name, versions := range x.Took {
		for v, outcomes := range versions {
			for o, h := range outcomes {
				s.took(h, name, callers(v), tally.Outcome(o).String())
			}
		}
	}
	for _, o := range st.Local.Objects {
		s.object(o)
	}
	s.put(callsHeld, float64(x.Held))
	s.put(callsInFlight, float64(x.InFlight))
	s.put(longestHold, x.LongestHold.Seconds())
	s.put(fetched, float64(x.Fetched), "peers")
	s.put(fetched, float64(x.Taken), "bundle")
	s.put(served, float64(x.Served))
	for kind, n := range x.Gossip {
		s.put(gossipBytes, float64(n.In), kind, "in")
		s.put(gossipBytes, float64(n.Out), kind, "out")
	}
	s.put(viewRecords, float64(len(st.Nodes)))
	s.put(stored, float64(x.Database), "database")
	s.put(stored, float64(x.Depot), "depot")
	if x.FreeBytes >= 0 {
		s.put(free, float64(x.FreeBytes))
	}
	if !st.Expires.IsZero() {
		s.put(expires, float64(st.Expires.Unix()))
		s.put(lasts, float64(st.Lasts.Unix()))
	}
}

// node sends what is known of the agent's own node.
func (s sink) node(n control.NodeStatus) {
	var phases []string
	for _, p := range view.Phases() {
		phases = append(phases, string(p))
	}
	s.oneOf(nodePhase, phases, n.Phase)
	s.oneOf(nodeHealth, healths, n.Health)
	s.put(nodeVersion, float64(n.Version))
	s.put(nodeRunning, float64(n.Running))
	s.put(nodeTarget, float64(n.Target))
	s.put(nodeProgress, n.Progress)
}

// classes sends the cluster by class.
func (s sink) classes(st control.Status) {
	settled := 0
	at, away := map[[2]string]int{}, map[string]int{}
	for _, n := range st.Nodes {
		if n.Standing != "" {
			continue
		}
		at[[2]string{string(n.Class), version(n.Version, st.Head)}]++
		if !n.Reachable {
			away[string(n.Class)]++
		}
	}
	for k, n := range at {
		s.put(nodesAt, float64(n), k[0], k[1])
	}
	for name, c := range st.Classes {
		class := string(name)
		settled += c.Settled + c.Unwell
		for state, n := range map[string]int{"settled": c.Settled, "unwell": c.Unwell, "down": c.Down, "held": c.Held, "waiting": c.Waiting} {
			s.put(classNodes, float64(n), class, state)
		}
		s.put(classBudget, float64(c.Budget), class)
		s.put(unreachable, float64(away[class]), class)
	}
	s.put(releaseSettled, float64(settled))
	var a control.AgentsStatus
	if st.Release.Agents != nil {
		a = *st.Release.Agents
	}
	trying, failed := len(a.Trying), len(a.Failed)
	for state, n := range map[string]int{"done": a.Done, "trying": trying, "failed": failed, "waiting": a.Total - a.Done - trying - failed} {
		s.put(releaseAgents, float64(n), state)
	}
}

// service sends the calls of a service.
func (s sink) service(name string, service control.LocalService) {
	for v, c := range service.Callers {
		s.outcomes(calls, c, name, callers(v))
		s.put(callsOpen, float64(c.Open), name, callers(v))
	}
}

// took sends how long the calls of one outcome took, where there were any.
func (s sink) took(h tally.Histogram, labels ...string) {
	if h.Count() == 0 {
		return
	}
	upTo, sum := map[float64]uint64{}, uint64(0)
	for i, bound := range tally.Bounds() {
		sum += uint64(h.Buckets[i])
		upTo[bound.Seconds()] = sum
	}
	s <- prometheus.MustNewConstHistogram(callDuration.desc(), uint64(h.Count()), h.Total.Seconds(), upTo, labels...)
}

// outcomes sends the calls that have ended by how they did; labels come before it.
func (s sink) outcomes(m metric, c control.CallCount, labels ...string) {
	labels = labels[:len(labels):len(labels)]
	for o, n := range map[tally.Outcome]int64{
		tally.Answered: c.Calls - c.Denied - c.Errors - c.Canceled, tally.Canceled: c.Canceled, tally.Denied: c.Denied, tally.Failed: c.Errors,
	} {
		s.put(m, float64(n), append(labels, o.String())...)
	}
}

func (s sink) object(o control.ObjectStatus) {
	s.outcomes(objectCalls, o.Counted, callers(o.Callers), o.Side)
	s.oneOf(objectState, objectStates, o.State, callers(o.Callers), o.Side)
	s.put(objectRestarts, float64(o.Restarts), callers(o.Callers), o.Side)
}

func callers(v bundle.Version) string { return strconv.FormatUint(uint64(v), 10) }

// version is a version as a label's value, few of which there are.
func version(v, head bundle.Version) string {
	if v+maxVersions <= head {
		return "older"
	}
	return strconv.FormatUint(uint64(v), 10)
}
