package every

import (
	"cmp"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"moult/agent/node"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Small is a small world, every state of which Visit visits.
type Small struct {
	// Nodes of one class, at most 3, are rolled out Releases releases, 1 or 2, with a
	// budget of Budget.
	Nodes, Releases, Budget int
	// Reversed gives the second release the ranks of the first in reverse: with two nodes
	// there are no others. Which node has which rank of the first does not matter.
	Reversed bool
	// Zones are those of the nodes, from 1, by their ranks in the first order; of each at
	// most one node may be down. The zero value is no zones.
	Zones [mostNodes]int
	// Late has nodes hear also what others said before what they say now, as one may whose
	// agent has lost its view.
	Late bool
	// What may happen besides, so often.
	Fails, Skips, Retries, Pauses int
	Plant                         Plant
	// Most is how many states are visited at most.
	Most int
}

// Plant is where a test can put a fault, to see that it matters. A nil field is no fault.
type Plant struct {
	Rules node.Rules
	// Memory is what a restarted node is told that the disk says, Event what a node is told
	// instead of an event; nil: nothing.
	Memory func(node.Memory) node.Memory
	Event  func(*node.Node, node.Event) node.Event
}

// Violation is a promise that was broken: P4, P8 or P9 as the design has them, or liveness.
type Violation struct{ Check, Text string }

const checkLiveness = "liveness"

// Visited is what came of it.
type Visited struct {
	States, Steps int // of the world, and between them
	// Locals and Decided are the states of single nodes in them, and what the real node
	// did with what happened to one.
	Locals, Decided int
	// Whole: there are no others.
	Whole     bool
	Violation *Violation
	// Way leads from the beginning to it.
	Way []string
}

func (v Visited) String() string {
	text := fmt.Sprintf("%d states, %d steps between them; %d states of single nodes, %d decisions", v.States, v.Steps, v.Locals, v.Decided)
	if v.Violation != nil {
		text += fmt.Sprintf("\n%s: %s\nby this way:\n  %s", v.Violation.Check, v.Violation.Text, strings.Join(v.Way, "\n  "))
	}
	return text
}

// world is one state of a small world.
type world struct {
	nodes [mostNodes]uint32 // their local states
	op    uint16            // index into states.ops
	fails uint8             // how many actions may still fail
}

// signing is what the operator has signed so far, and may still.
type signing struct {
	set                    uint16
	skips, retries, pauses uint8
	gone                   [mostNodes]bool // was ever skipped
}

// set is one set of metadata.
type set struct {
	head      bundle.Version
	orders    [mostReleases + 2]*schedule.Order
	manifests [mostReleases + 2]bundle.Digest
	number    int64
	meta      node.Metadata
	from      uint16 // the set before it; that of the first is its own
}

// states visits every state of a small world.
type states struct {
	Small
	ids         []bundle.NodeID
	keys        []ed25519.PrivateKey
	sets        []set
	ops         []signing
	opIndex     map[signing]uint16
	opNext      map[uint16][]uint16
	manifests   map[bundle.Digest]*bundle.Manifest
	orders      map[bundle.Digest]*schedule.Order
	words       []words
	said        [mostNodes]map[word8]bool // by each node, in any state; of what was heard late
	signatures  map[signedWord]view.Signed
	records     view.Memo
	memo        memo
	transitions int
	violation   *Violation

	worlds  []world
	index   map[world]uint32
	parents []uint32
	// Those that follow worlds[i] are follow[first[i]:first[i+1]].
	first, follow []uint32
}

// Visit visits every state that a small world can reach, breadth first, and checks in each
// that no more nodes are down than the budget, and that whoever waits would wait also
// knowing less; and then that from each there is a way to where all have settled.
//
// In each step one thing happens to one node: metadata come, those that any other may have;
// a record comes; an action ends, or fails; its agent dies and comes back. Or the operator
// signs. What is lost or late just has not happened yet. Records that are out of date when
// they come are those that came in time to one who did nothing since, or in worlds that are
// Late to one who lost its view; an older one after a newer is not taken. So every
// interleaving of those is one of these.
func Visit(small Small) Visited {
	s := newStates(small)
	s.begin()
	at := s.visitAll()
	for s.Late && at == len(s.worlds) && s.violation == nil && s.heardMore() {
		at = s.visitAll()
	}
	v := Visited{
		States: len(s.worlds), Steps: len(s.follow), Locals: len(s.memo.locals), Decided: s.transitions,
		Whole: at == len(s.worlds), Violation: s.violation,
	}
	if v.Violation != nil {
		v.Way = s.way(uint32(at - 1))
	} else if v.Whole {
		if stuck, ok := s.stuck(); ok {
			v.Violation, v.Way = &Violation{Check: checkLiveness, Text: "no way leads from there to where all have settled"}, s.way(stuck)
		}
	}
	return v
}

// visitAll visits every state that follows from the first, and returns how many it has.
func (s *states) visitAll() (at int) {
	s.worlds, s.parents, s.first, s.follow = s.worlds[:1], s.parents[:1], nil, nil
	s.index = map[world]uint32{s.worlds[0]: 0}
	for ; at < len(s.worlds) && s.violation == nil && len(s.worlds) <= s.Most; at++ {
		s.first = append(s.first, uint32(len(s.follow)))
		s.visit(uint32(at))
	}
	s.first = append(s.first, uint32(len(s.follow)))
	return at
}

// heardMore notes what nodes say in the states that were visited, and reports whether that
// is more than could be heard late so far. What a node said on the way to a state may have
// been found only after that.
func (s *states) heardMore() (more bool) {
	for _, w := range s.worlds {
		for j := range s.Nodes {
			if said := s.memo.locals[w.nodes[j]].said[j]; !s.said[j][said] {
				if s.said[j] == nil {
					s.said[j] = map[word8]bool{}
				}
				s.said[j][said], more = true, true
			}
		}
	}
	return more
}

// late lists what a node j may have said after what was heard of it, and before it said what
// it says: all of a record that others decide by only rises.
func (s *states) late(j int, heard, says word8) (between []word8) {
	for w := range word8(len(s.words)) {
		if w != 0 && w != heard && w != says && s.said[j][w] && s.words[heard].upTo(s.words[w]) && s.words[w].upTo(s.words[says]) {
			between = append(between, w)
		}
	}
	return between
}

func newStates(small Small) *states {
	if small.Plant.Memory == nil {
		small.Plant.Memory = func(m node.Memory) node.Memory { return m }
	}
	if small.Plant.Event == nil {
		small.Plant.Event = func(_ *node.Node, e node.Event) node.Event { return e }
	}
	return &states{
		Small: small, words: make([]words, 1), signatures: map[signedWord]view.Signed{},
		opIndex: map[signing]uint16{}, opNext: map[uint16][]uint16{}, manifests: map[bundle.Digest]*bundle.Manifest{}, orders: map[bundle.Digest]*schedule.Order{},
		memo: memo{index: map[localOf]uint32{}}, index: map[world]uint32{},
	}
}

func (s *states) fail(check, format string, args ...any) {
	if s.violation == nil {
		s.violation = &Violation{Check: check, Text: fmt.Sprintf(format, args...)}
	}
}

func (s *states) names(i int) string { return fmt.Sprintf("n%d", i+1) }

// begin makes the world as it is when the first release is injected: every node runs
// version 1, and knows nothing of the others.
func (s *states) begin() {
	for i := range s.Nodes {
		var seed [ed25519.SeedSize]byte
		binary.BigEndian.PutUint64(seed[:], uint64(i))
		s.keys = append(s.keys, ed25519.NewKeyFromSeed(seed[:]))
	}
	first := s.release(set{head: 1}, nil)
	roster := first.orders[2].Classes["kv"].Roster
	slices.SortFunc(s.keys, func(a, b ed25519.PrivateKey) int {
		rank := func(k ed25519.PrivateKey) int { return slices.Index(roster, idOf(k)) }
		return rank(a) - rank(b)
	})
	for _, k := range s.keys {
		s.ids = append(s.ids, idOf(k))
	}
	before := first // where nobody has heard of the release yet
	before.head, before.orders, before.number = 1, [mostReleases + 2]*schedule.Order{}, 0
	s.addSet(before, 0)
	s.addSet(first, 0)
	w := world{fails: uint8(s.Fails), op: s.signs(signing{set: 1, skips: uint8(s.Skips), retries: uint8(s.Retries), pauses: uint8(s.Pauses)})}
	for i := range s.Nodes {
		w.nodes[i] = s.intern(i, local{state: marshalled(upgrade.State{Phase: upgrade.Current, Version: 1, Running: 1, Served: true})})
	}
	s.reach(0, w)
	s.follow = nil
}

func idOf(k ed25519.PrivateKey) bundle.NodeID {
	return bundle.NodeIDOf(k.Public().(ed25519.PublicKey))
}

// release signs the next release, and its first order.
func (s *states) release(next set, previous *schedule.Order) set {
	next.number++
	next.head++
	spec := bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: fmt.Sprint(s.Budget), FailureMax: 100}
	for v := next.head; next.manifests[v].IsZero() && v > 0; v-- { // and the one before it, which all run
		m := &bundle.Manifest{Format: bundle.FormatVersion, Version: v, Previous: next.manifests[v-1], Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {From: v - 1, Schedule: spec}}}
		next.manifests[v] = bundle.Sum(must(json.Marshal(m)))
		s.manifests[next.manifests[v]] = m
	}
	v := next.head
	var candidates []schedule.Candidate
	for _, k := range s.keys {
		candidates = append(candidates, schedule.Candidate{ID: idOf(k), Class: "kv", Version: 1, Reachable: true})
	}
	o := must(schedule.Instantiate(s.manifests[next.manifests[v]], next.manifests[v], previous, candidates))
	if previous != nil {
		c := o.Classes["kv"]
		slices.SortFunc(c.Roster, func(a, b bundle.NodeID) int { return slices.Index(s.ids, a) - slices.Index(s.ids, b) })
		if s.Reversed {
			slices.Reverse(c.Roster)
		}
	}
	if s.Zones[0] > 0 {
		s.zone(o)
	}
	next.orders[v] = o
	return next
}

// zone has an order allow one node of each zone.
func (s *states) zone(o *schedule.Order) {
	c := o.Classes["kv"]
	c.Spread = &schedule.Spread{Label: "zone", Max: 1, Values: []string{"a", "b"}}
	for i, id := range c.Roster {
		if len(s.ids) > 0 {
			i = slices.Index(s.ids, id)
		}
		c.Spread.Of = append(c.Spread.Of, s.Zones[i])
	}
	o.Classes["kv"], o.Format = c, schedule.FormatWaves
}

// addSet makes a set known, which follows another.
func (s *states) addSet(x set, from uint16) uint16 {
	x.meta = node.Metadata{
		Versions: trust.Versions{Root: 1, Timestamp: x.number + 1}, Expires: epoch.Add(100 * 365 * 24 * time.Hour),
		Releases: map[bundle.Version]trust.Ref{}, Orders: map[bundle.Version]trust.Ref{},
	}
	text := fmt.Append(nil, x.number)
	for v := bundle.Version(1); v <= x.head; v++ {
		x.meta.Releases[v] = trust.Ref{Digest: x.manifests[v], Length: 1}
		text = fmt.Append(text, x.manifests[v])
		if o := x.orders[v]; o != nil {
			d := bundle.Sum(must(schedule.MarshalOrder(o)))
			s.orders[d] = o
			x.meta.Orders[v] = trust.Ref{Digest: d, Length: 1}
			text = fmt.Append(text, d)
		}
	}
	x.meta.Digest = bundle.Sum(text)
	for i, have := range s.sets {
		if have.meta.Digest == x.meta.Digest && have.from == from {
			return uint16(i)
		}
	}
	x.from = from
	s.sets = append(s.sets, x)
	return uint16(len(s.sets) - 1)
}

func (s *states) signs(x signing) uint16 {
	if at, ok := s.opIndex[x]; ok {
		return at
	}
	at := uint16(len(s.ops))
	s.ops = append(s.ops, x)
	s.opIndex[x] = at
	return at
}

// newest is the newest order of a set.
func (x set) newest() *schedule.Order { return x.orders[x.head] }

// mayRetry lists the nodes that the operator may give another attempt: those that were
// skipped, and those that are held.
func (s *states) mayRetry(w world, x signing) (nodes []int) {
	for i := range s.Nodes {
		if x.gone[i] || s.memo.nature[w.nodes[i]].state.Phase == upgrade.Held {
			nodes = append(nodes, i)
		}
	}
	return nodes
}

// operates reaches what the operator may do next.
func (s *states) operates(at uint32, w world) {
	x := s.ops[w.op]
	o := s.sets[x.set].newest()
	sign := func(next *schedule.Order, change func(*signing)) {
		y, signed := x, s.sets[x.set]
		signed.number++
		signed.orders[next.Release] = next
		y.set = s.addSet(signed, x.set)
		change(&y)
		v := w
		v.op = s.signs(y)
		s.reach(at, v)
	}
	if o.State == schedule.StatePaused {
		sign(must(o.Resume()), func(*signing) {})
	} else if x.pauses > 0 {
		sign(must(o.Pause()), func(y *signing) { y.pauses-- })
	}
	if int(s.sets[x.set].head) <= s.Releases {
		y := x
		y.set = s.addSet(s.release(s.sets[x.set], o), x.set)
		v := w
		v.op = s.signs(y)
		s.reach(at, v)
	}
	for i := range s.Nodes {
		if x.skips == 0 {
			break
		}
		if next, err := o.Skip("kv", s.ids[i]); err == nil {
			sign(next, func(y *signing) { y.skips--; y.gone[i] = true })
		}
	}
	if x.retries > 0 {
		for _, i := range s.mayRetry(w, x) {
			sign(must(o.Retry("kv", s.ids[i])), func(y *signing) { y.retries-- })
		}
	}
}

// reach notes a state that follows from another.
func (s *states) reach(from uint32, w world) {
	at, known := s.index[w]
	if !known {
		at = uint32(len(s.worlds))
		s.index[w] = at
		s.worlds = append(s.worlds, w)
		s.parents = append(s.parents, from)
	}
	s.follow = append(s.follow, at)
}

// visit checks a state, and reaches all that follow it.
func (s *states) visit(at uint32) {
	w := s.worlds[at]
	s.checkDown(w)
	for i := range s.Nodes {
		now := s.memo.locals[w.nodes[i]].local
		do := func(e happening) {
			v := w
			if v.nodes[i] = s.then(w.nodes[i], e); e.kind == fails {
				v.fails--
			}
			if v != w {
				s.reach(at, v)
			}
		}
		do(happening{kind: restarts})
		if !s.memo.nature[w.nodes[i]].quiet {
			do(happening{kind: goesOn})
			continue
		}
		for newer := s.ops[w.op].set; newer != now.set; newer = s.sets[newer].from {
			do(happening{kind: takesSet, with: newer})
		}
		for j := range s.Nodes {
			if said := s.memo.locals[w.nodes[j]].said[j]; j != i && (said != now.said[j] || !now.synced) {
				do(happening{hears, uint16(said), uint8(j)})
				if s.Late {
					for _, before := range s.late(j, now.said[j], said) {
						do(happening{hears, uint16(before), uint8(j)})
					}
				}
			}
		}
		x := &s.memo.nature[w.nodes[i]]
		if acts, may, going := x.acts, x.fails && w.fails > 0, x.going; acts || going {
			if acts {
				do(happening{kind: succeeds})
			}
			if may {
				do(happening{kind: fails})
			}
			if going {
				do(happening{kind: checks})
			}
		}
	}
	s.operates(at, w)
}

// checkDown is promise P4. Nodes that were ever skipped do not count.
func (s *states) checkDown(w world) {
	var down []string
	for i := range s.Nodes {
		if s.memo.nature[w.nodes[i]].state.Phase.Down() && !s.ops[w.op].gone[i] {
			down = append(down, s.names(i))
		}
	}
	if len(down) > s.Budget {
		s.fail("P4", "%s are down, and the budget is %d", strings.Join(down, ", "), s.Budget)
	}
	for i, of := range s.Zones {
		for j := range i {
			if of > 0 && s.Zones[j] == of && slices.Contains(down, s.names(i)) && slices.Contains(down, s.names(j)) {
				s.fail("P4", "%s and %s are down, which are in one zone", s.names(i), s.names(j))
			}
		}
	}
}

// settled reports whether this is an end: each node is at the newest release, or is held
// or skipped and the operator may help no more.
func (s *states) settled(w world) bool {
	x := s.ops[w.op]
	o := s.sets[x.set].newest()
	if o.State != schedule.StateRunning || int(o.Release) != s.Releases+1 {
		return false
	}
	for i := range s.Nodes {
		st := s.memo.nature[w.nodes[i]].state
		attempts := o.Attempts("kv", s.ids[i])
		over := attempts == 0 || st.Phase == upgrade.Held && st.EndedRelease == o.Release && st.EndedCount >= attempts
		if !(st.Phase == upgrade.Current && st.Version == o.Release) && !(over && x.retries == 0) {
			return false
		}
	}
	return true
}

// stuck finds a state from which no way leads to an end.
func (s *states) stuck() (uint32, bool) {
	first := make([]uint32, len(s.worlds)+1) // as s.first, of those from which one follows
	for _, to := range s.follow {
		first[to+1]++
	}
	for i := range s.worlds {
		first[i+1] += first[i]
	}
	back, next := make([]uint32, len(s.follow)), slices.Clone(first)
	for i := range s.worlds {
		for _, to := range s.follow[s.first[i]:s.first[i+1]] {
			back[next[to]] = uint32(i)
			next[to]++
		}
	}
	leads := make([]bool, len(s.worlds))
	var todo []uint32
	for i, w := range s.worlds {
		if s.settled(w) {
			leads[i] = true
			todo = append(todo, uint32(i))
		}
	}
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, from := range back[first[at]:first[at+1]] {
			if !leads[from] {
				leads[from] = true
				todo = append(todo, from)
			}
		}
	}
	i := slices.Index(leads, false)
	return uint32(max(i, 0)), i >= 0
}

// way tells how a state is reached.
func (s *states) way(at uint32) (lines []string) {
	for ; ; at = s.parents[at] {
		lines = append(lines, s.tells(s.worlds[s.parents[at]], s.worlds[at]))
		if at == 0 {
			slices.Reverse(lines)
			return lines
		}
	}
}

// tells names what is new in a state.
func (s *states) tells(before, w world) string {
	if before.op != w.op || before == w {
		x := s.sets[s.ops[w.op].set]
		o := x.newest()
		return fmt.Sprintf("the operator signs release %d serial %d, %s: places %s", o.Release, o.Serial, o.State, s.places(o))
	}
	for i := range s.Nodes {
		if before.nodes[i] == w.nodes[i] {
			continue
		}
		e := s.happened(before.nodes[i], w.nodes[i])
		l, st := s.memo.locals[w.nodes[i]], s.memo.nature[w.nodes[i]].state
		text := fmt.Sprintf("%s %s", s.names(i), e.kind)
		if e.kind == hears && e.with != 0 {
			text += fmt.Sprintf(" that %s says %+v", s.names(int(e.of)), s.words[e.with])
		}
		return text + fmt.Sprintf(": %s, version %d, goal %d, metadata %d", st.Phase, st.Version, st.Goal, s.sets[l.set].number)
	}
	panic("every: nothing has happened")
}

// happened is what led from a local state to the one that follows it.
func (s *states) happened(before, after uint32) happening {
	next := s.memo.nature[before].next
	for _, e := range slices.SortedFunc(maps.Keys(next), func(a, b happening) int {
		return cmp.Or(int(a.kind)-int(b.kind), int(a.of)-int(b.of), int(a.with)-int(b.with))
	}) {
		if next[e] == after {
			return e
		}
	}
	panic("every: nothing leads there")
}

func (s *states) places(o *schedule.Order) string {
	var names []string
	c := o.Classes["kv"]
	for i, id := range c.Roster {
		name := s.names(slices.Index(s.ids, id))
		if slices.Contains(c.Skipped, i) {
			name += " (skipped)"
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

// epoch is when all of it happens.
var epoch = time.Unix(1_800_000_000, 0)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // of a value that this package made: a fault of its own
	}
	return v
}
