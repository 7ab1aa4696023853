package fleet

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Config describes a fleet and what is rolled out on it. Its times are means: each node has
// its own, from half of one to half as much again.
type Config struct {
	Seed  uint64
	Nodes int
	// Zones of equal size, as values of the label that the schedule goes by; 0 for none.
	Zones    int
	Class    bundle.Class
	Schedule bundle.ScheduleSpec
	// Begin is when the order is signed, for windows, and Zone finds a time zone.
	Begin time.Time
	Zone  func(name string) (*time.Location, error)
	// Fetch, Stop, Transform and Start are how long these take; Probe is for how long the
	// new software must be healthy before its node has settled.
	Fetch, Stop, Transform, Start, Probe time.Duration
	// Delay is until what a node says is known to the others.
	Delay time.Duration
	// FailRate is the chance of an attempt to fail before callers are let in, and UnwellRate
	// that of a settled node to fail in its soak.
	FailRate, UnwellRate float64
	// Most is after how long the run ends all the same.
	Most time.Duration
	// Watch, where it is set, is told how the fleet stands: at first, and at each change.
	Watch func(Sample)
}

// Sample is how many nodes are down, and how many have settled and are well, at a time after
// the order was signed. All that are not down serve.
type Sample struct {
	At            time.Duration
	Down, Settled int
}

// Validate reports what is wrong with a configuration.
func (c Config) Validate() error {
	for name, d := range map[string]time.Duration{"fetch": c.Fetch, "stop": c.Stop, "transform": c.Transform, "start": c.Start, "probe": c.Probe, "network delay": c.Delay} {
		if d < 0 || d > maxTime {
			return fmt.Errorf("the %s time is %s, want 0 to %s", name, d, maxTime)
		}
	}
	for name, p := range map[string]float64{"fail": c.FailRate, "unwell": c.UnwellRate} {
		if !(p >= 0 && p <= 1) {
			return fmt.Errorf("the %s rate is %v, want 0 to 1", name, p)
		}
	}
	if c.Nodes < 1 || c.Nodes > schedule.MaxRoster {
		return fmt.Errorf("%d nodes, want 1 to %d", c.Nodes, schedule.MaxRoster)
	}
	if c.Zones < 0 || c.Zones > c.Nodes {
		return fmt.Errorf("%d zones, want 0 to one for each node", c.Zones)
	}
	return nil
}

// Report is what came of a rollout.
type Report struct {
	Nodes int `json:"nodes"`
	// State is that of the rollout at the end, as status shows it, and Reason why it does
	// not go on.
	State  string `json:"state"`
	Reason string `json:"reason"`
	// Took is from the first order to the last thing that happened.
	Took bundle.Duration `json:"took"`
	// MostDown is how many nodes were down at once, MostDownZone of one zone.
	MostDown     int `json:"most_down"`
	MostDownZone int `json:"most_down_zone"`
	// Availability is the lowest share of the nodes that were up, 0 to 1, and Mean its mean
	// over the time that the rollout took.
	Availability float64 `json:"availability"`
	Mean         float64 `json:"mean_availability"`
	// Mixed is for how long nodes of both versions served at once.
	Mixed   bundle.Duration `json:"mixed"`
	Settled int             `json:"settled"`
	Failed  int             `json:"failed"`
	// Asked is how often a node asked the schedule.
	Asked int `json:"asked"`
}

// Release is the version that is rolled out, on nodes that run the one before.
const release bundle.Version = 2

// Run rolls the release out, to the end of all that happens.
func Run(c Config) (Report, error) {
	if err := c.Validate(); err != nil {
		return Report{}, err
	}
	f := &fleet{Config: c, at: make(map[bundle.NodeID]int, c.Nodes), awaited: -1}
	if err := f.populate(); err != nil {
		return Report{}, err
	}
	for len(f.queue) > 0 && f.queue[0].at <= c.Most {
		e := f.queue.pop()
		f.pass(e.at)
		f.happen(e)
		if len(f.queue) == 0 || f.queue[0].at > f.now {
			f.ask() // all that is known of by now
		}
	}
	return f.report(), nil
}

type fleet struct {
	Config
	nodes []node
	at    map[bundle.NodeID]int // index into nodes
	order *schedule.Order
	tally *schedule.Tally
	queue queue
	seq   uint64
	now   time.Duration

	waiting []int // by rank: staged, and not gone yet
	awaited int   // the node for which the next waits in any case; -1: none
	news    bool  // something is known that was not when nodes asked last
	again   time.Duration

	down, most, mostZone int
	zones                []int // how many are down
	newer                int   // nodes that serve at the release
	settled              int
	sum                  float64
	mixed, last          time.Duration
	asked                int
}

type node struct {
	id      bundle.NodeID
	zone    int
	machine *upgrade.Machine
	known   view.Record // what the others know of it
	rank    int
	dice    fate
	serves  bundle.Version // 0: it is down
	settled bool
}

// fate is what becomes of a node, whatever the schedule.
type fate struct {
	fetch, stop, transform, start time.Duration
	fails, ails                   bool
}

func (f *fleet) populate() error {
	var candidates []schedule.Candidate
	label := "zone"
	if s := f.Schedule.Spread; s != nil {
		label = s.Label
	}
	for _, w := range f.Schedule.Waves {
		if w.Each != "" {
			label = w.Each
		}
	}
	f.nodes, f.zones = make([]node, f.Nodes), make([]int, max(1, f.Zones))
	for i := range f.nodes {
		var number [8]byte
		binary.BigEndian.PutUint64(number[:], uint64(i))
		n := node{id: sha256.Sum256(number[:]), dice: f.fate(i), serves: release - 1}
		c := schedule.Candidate{ID: n.id, Class: f.Class, Version: release - 1, Reachable: true}
		if f.Zones > 0 {
			n.zone = i % f.Zones
			c.Labels = map[string]string{label: zoneName(n.zone)}
		}
		m, err := upgrade.New(upgrade.State{Phase: upgrade.Current, Version: release - 1, Running: release - 1, Served: true})
		if err != nil {
			return err
		}
		n.machine = m
		f.nodes[i], f.at[n.id] = n, i
		candidates = append(candidates, c)
	}
	f.Schedule.When, f.Schedule.HoldIf = "", ""
	// Its nodes have no label but a zone: waves of others are of nobody here.
	f.Schedule.Waves = slices.DeleteFunc(slices.Clone(f.Schedule.Waves), func(w bundle.Wave) bool {
		return len(w.Labels) > 0 || w.Each != "" && (f.Zones == 0 || w.Each != label)
	})
	m := &bundle.Manifest{Version: release, Classes: map[bundle.Class]bundle.ClassUpgrade{f.Class: {From: release - 1, Schedule: f.Schedule}}}
	order, err := schedule.Instantiate(m, bundle.Sum(binary.BigEndian.AppendUint64(nil, f.Seed)), nil, candidates)
	if err != nil {
		return err
	}
	f.order = order
	f.tally = schedule.NewTally(order, func(id bundle.NodeID) (view.Record, bool) { return f.nodes[f.at[id]].known, true })
	for rank, id := range order.Classes[f.Class].Roster {
		f.nodes[f.at[id]].rank = rank
	}
	f.watch()
	for i := range f.nodes {
		n := &f.nodes[i]
		n.known = f.says(n)
		n.machine.Advance()
		n.machine.Step(upgrade.Target{Goal: release, Path: []bundle.Version{release}})
		f.carryOut(i)
	}
	return nil
}

// zoneName is "a", "b", … "aa": in the order of their numbers, as far as there are letters.
func zoneName(i int) string {
	if i < 26 {
		return string(rune('a' + i))
	}
	return zoneName(i/26-1) + zoneName(i%26)
}

func (f *fleet) fate(i int) fate {
	dice := rand.New(rand.NewPCG(f.Seed, uint64(i)))
	about := func(d time.Duration) time.Duration { return d/2 + time.Duration(dice.Float64()*float64(d)) }
	return fate{
		fetch: about(f.Fetch), stop: about(f.Stop), transform: about(f.Transform), start: about(f.Start),
		fails: dice.Float64() < f.FailRate, ails: dice.Float64() < f.UnwellRate,
	}
}

// says is what a node publishes, as agent/node does.
func (f *fleet) says(n *node) view.Record {
	s := n.machine.State()
	r := view.Record{
		Node: n.id, Class: f.Class, Version: s.Claims(), Target: s.Goal, Running: s.Running, Phase: s.Phase, Obeys: s.Obeys,
		Ended: view.Ended{Release: s.EndedRelease, Count: s.EndedCount}, Held: s.Phase == upgrade.Held, Reads: view.ReadsRehearsals,
		Health: view.Health{State: view.HealthWell, Soaked: s.Soaked, Failed: view.Ended{Release: s.FailedRelease, Count: s.FailedCount}},
	}
	return r
}

// carryOut does what the machine of a node asks for, which takes its time, and tells the
// others in what state it is.
func (f *fleet) carryOut(i int) {
	n := &f.nodes[i]
	for {
		todo := n.machine.Todo()
		if todo.Empty() {
			return
		}
		n.machine.Advance()
		if todo.Save != nil {
			f.publish(i)
		}
		for _, a := range todo.Actions {
			f.begin(i, a)
		}
	}
}

// begin answers an action when it has been done.
func (f *fleet) begin(i int, a upgrade.Action) {
	n, d := &f.nodes[i], f.nodes[i].dice
	switch a := a.(type) {
	case upgrade.Fetch:
		f.after(d.fetch, i, upgrade.Staged{Step: a.Step})
	case upgrade.Drain:
		f.serve(n, 0)
		f.after(d.stop, i, upgrade.Drained{Step: a.Step})
	case upgrade.Transform:
		f.after(d.transform, i, upgrade.Transformed{Step: a.Step, To: a.To})
	case upgrade.Launch:
		if d.fails {
			f.after(d.start, i, upgrade.Failed{Step: a.Step, Reason: "it never gets healthy"})
			return
		}
		f.after(d.start, i, upgrade.Ready{Step: a.Step})
	case upgrade.Admit:
		f.serve(n, release)
		f.after(0, i, upgrade.Admitted{Step: a.Step})
	case upgrade.Probe:
		f.after(f.Probe, i, upgrade.Healthy{Step: a.Step})
	case upgrade.Settle:
		c := f.order.Classes[f.Class]
		soak := time.Duration(c.SoakAt(n.rank))
		f.after(0, i, upgrade.Recorded{Step: a.Step})
		if d.ails {
			f.after(soak/2, i, upgrade.SoakFailed{Release: release, Places: f.order.Attempts(f.Class, n.id)})
		}
		f.after(soak, i, upgrade.Soaked{Release: release})
	case upgrade.Rollback:
		f.after(d.start, i, upgrade.RolledBack{Step: a.Step})
	case upgrade.Run:
		if n.serves == 0 {
			f.serve(n, a.Version) // it has gone back
		}
	}
}

// serve notes which version answers callers; 0: none does.
func (f *fleet) serve(n *node, v bundle.Version) {
	if (n.serves == 0) != (v == 0) {
		by := 1
		if v != 0 {
			by = -1
		}
		f.down += by
		f.zones[n.zone] += by
		f.watch()
		f.most, f.mostZone = max(f.most, f.down), max(f.mostZone, f.zones[n.zone])
	}
	if v == release && n.serves != release {
		f.newer++
	}
	n.serves = v
}

// settle notes whether a node has settled, and is well.
func (f *fleet) settle(n *node) {
	settled := f.order.Arrived(f.says(n)) && n.machine.State().FailedRelease != release
	if settled == n.settled {
		return
	}
	n.settled = settled
	if settled {
		f.settled++
	} else {
		f.settled--
	}
	f.watch()
}

func (f *fleet) watch() {
	if f.Watch != nil {
		f.Watch(Sample{At: f.now, Down: f.down, Settled: f.settled})
	}
}

// pass has time pass.
func (f *fleet) pass(to time.Duration) {
	took := to - f.now
	f.sum += took.Seconds() * float64(f.Nodes-f.down)
	if older := f.Nodes - f.down - f.newer; f.newer > 0 && older > 0 {
		f.mixed += took
	}
	f.now = to
}
