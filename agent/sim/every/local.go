package every

import (
	"crypto/ed25519"
	"slices"

	"moult/agent/node"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// local is all of one node that its decisions rest on. Everything else is made anew from
// it, by the same node.New by which an agent starts, so whatever happens happens to a node
// that was just restored. That loses nothing: a check that has passed is void as soon as
// the schedule says no, and an action that was under way is asked for again.
type local struct {
	state  string // what is durable, as JSON
	set    uint16 // metadata in force: index into states.sets
	synced bool
	said   [mostNodes]word8 // what it knows that each node has said last; its own also
}

// word8 is an index into states.words; 0: nothing.
type word8 uint8

// words is what a record says that others decide by. The rest is left out, so that
// worlds that differ in nothing else are one.
type words struct {
	Version, Obeys bundle.Version
	Ended          view.Ended
}

// upTo reports whether a node that says this may say those later.
func (a words) upTo(b words) bool {
	return a.Version <= b.Version && a.Obeys <= b.Obeys && (a.Ended.Release < b.Ended.Release || a.Ended.Release == b.Ended.Release && a.Ended.Count <= b.Ended.Count)
}

// happening is an event of one node.
type happening struct {
	kind happeningKind
	with uint16 // the set, or what another node says
	of   uint8  // the node that says it
}

type happeningKind uint8

const (
	goesOn   happeningKind = iota // a state was saved, and more follows from it
	takesSet                      // metadata come
	hears                         // a record comes; in the first exchange since its start, if that has not been
	succeeds                      // the action under way
	fails                         // likewise
	checks                        // whether it could go down has been looked at: it could
	restarts                      // its agent
)

func (k happeningKind) String() string {
	return [...]string{"goes on", "takes metadata", "hears", "has done it", "fails", "may go", "restarts"}[k]
}

// nature is what may happen to a local state, found out once.
type nature struct {
	quiet bool // nothing follows from it by itself
	acts  bool // an action is under way
	fails bool // and it may fail
	going bool // the schedule would let it go down
	state upgrade.State
	next  map[happening]uint32 // index into states.locals
}

// memo keeps what became of local states. The real node decides once what becomes of
// one; worlds are made of them.
type memo struct {
	index  map[localOf]uint32
	locals []localOf
	nature []nature
}

type localOf struct {
	node uint8
	local
}

func (s *states) intern(i int, l local) uint32 {
	k := localOf{uint8(i), l}
	if at, ok := s.memo.index[k]; ok {
		return at
	}
	at := uint32(len(s.memo.locals))
	s.memo.index[k] = at
	s.memo.locals = append(s.memo.locals, k)
	s.memo.nature = append(s.memo.nature, nature{next: map[happening]uint32{}, state: must(upgrade.ParseState([]byte(l.state)))})
	s.look(at)
	return at
}

// then is what becomes of a local state.
func (s *states) then(at uint32, e happening) uint32 {
	if next, ok := s.memo.nature[at].next[e]; ok {
		return next
	}
	l := s.memo.locals[at]
	next := s.intern(int(l.node), s.happens(int(l.node), l.local, e))
	s.memo.nature[at].next[e] = next
	s.transitions++
	return next
}

// look finds out what may happen to a local state, and checks promise P9 in it.
func (s *states) look(at uint32) {
	l := s.memo.locals[at]
	n := s.restore(int(l.node), l.local)
	got := s.run(n, false)
	x := &s.memo.nature[at]
	x.quiet = got.saved == nil && got.says == s.words[l.said[l.node]]
	if x.quiet {
		x.acts, x.going = len(got.actions) > 0, got.check != nil
		for _, a := range got.actions {
			switch a.(type) {
			case upgrade.Transform, upgrade.Admit: // the probe that follows it
				x.fails = true
			}
		}
		s.checkAbsence(n, x)
	}
}

// checkAbsence is promise P9: who waits waits also where one of the records is missing.
func (s *states) checkAbsence(n *node.Node, x *nature) {
	if x.state.Phase != upgrade.Waiting || x.going {
		return
	}
	in := n.Input(x.state.Goal)
	decide := schedule.Decide
	if f := s.Plant.Rules.Decide; f != nil {
		decide = f
	}
	if in.Order == nil || decide(in).Go {
		return
	}
	lookup := in.Lookup
	for _, missing := range s.ids {
		in.Lookup = func(id bundle.NodeID) (view.Record, bool) {
			if id == missing && id != in.Self {
				return view.Record{}, false
			}
			return lookup(id)
		}
		if decide(in).Go {
			s.fail("P9", "%s waits, and would go if it knew nothing of %s", s.names(slices.Index(s.ids, in.Self)), s.names(slices.Index(s.ids, missing)))
		}
	}
}

// happens has something happen to a local state, and returns what comes of it: up to the
// next state that is durable, and what is said of that.
func (s *states) happens(i int, l local, e happening) local {
	if e.kind == restarts {
		// It has lost its view. With that it would decide nothing before its first exchange,
		// and then be where it was.
		m := s.Plant.Memory(node.Memory{State: new(must(upgrade.ParseState([]byte(l.state))))})
		said := [mostNodes]word8{}
		said[i] = l.said[i]
		return local{state: marshalled(*m.State), set: l.set, said: said}
	}
	n := s.restore(i, l)
	next, _ := s.apply(n, s.run(n, e.kind == goesOn), i, l, e, 2)
	return next
}

// apply has something happen to a node, which wants what it wanted before, and returns what
// comes of it, and what it wants then. number is that of a record that it hears.
func (s *states) apply(n *node.Node, got outcome, i int, l local, e happening, number uint64) (local, outcome) {
	switch e.kind {
	case takesSet:
		s.tell(n, node.MetadataVerified{Metadata: s.sets[e.with].meta})
	case hears:
		if e.with != 0 {
			l.said[e.of] = word8(e.with)
			if _, err := n.Merge(epoch, s.signed(int(e.of), word8(e.with), number)); err != nil {
				s.fail("P8", "%s refuses a record: %v", s.names(i), err)
			}
		}
		if !l.synced {
			l.synced = true
			s.tell(n, node.Synced{})
		}
	case checks:
		s.tell(n, node.CheckEnded{Step: got.check.Step})
	case succeeds, fails:
		s.answer(n, got.actions[len(got.actions)-1], e.kind == fails)
	}
	wanted := got
	if e.kind != goesOn {
		got = s.run(n, true)
	}
	for got.saved == nil && len(got.actions) > 0 && (e.kind == succeeds || e.kind == fails) {
		s.answer(n, got.actions[len(got.actions)-1], e.kind == fails) // admitted, and now it is probed
		got = s.run(n, true)
	}
	for got.saved == nil && e.kind == checks && got.check != nil { // one that was begun before is void
		s.tell(n, node.CheckEnded{Step: got.check.Step})
		got = s.run(n, true)
	}
	if got.saved != nil {
		l.state = marshalled(*got.saved)
	} else if e.kind != goesOn { // what it wanted it still waits for
		got.actions = append(wanted.actions, got.actions...)
	}
	if got.check == nil && e.kind != checks {
		got.check = wanted.check
	}
	if got.said {
		l.said[i] = s.word(got.says)
	}
	if in := n.Metadata().Digest; in != s.sets[l.set].meta.Digest {
		l.set = e.with
	}
	for v, o := range n.BoundOrders() {
		if want := s.sets[l.set].meta.Orders[v].Digest; o != want {
			s.fail("P4", "%s has another order of release %d in force than it was shown", s.names(i), v)
		}
	}
	return l, got
}

func (s *states) tell(n *node.Node, e node.Event) {
	if e = s.Plant.Event(n, e); e != nil {
		n.Step(epoch, e)
	}
}

// marshalled is the canonical form of a state: answers to actions are told apart by numbers
// that mean nothing else, and reasons are for people.
func marshalled(s upgrade.State) string {
	s.Step, s.Reason = 1, ""
	return string(must(s.Marshal()))
}

// restore makes the node of a local state, as an agent does that starts, up to what its
// driver would have told it.
func (s *states) restore(i int, l local) *node.Node {
	st := must(upgrade.ParseState([]byte(l.state)))
	x := s.sets[l.set]
	m := node.Memory{
		State: &st, Slot: st.Running, Metadata: x.meta, Bound: map[bundle.Version]bundle.Digest{},
		Floor: node.Floor{Versions: x.meta.Versions, Release: x.head, Promises: upgrade.Promises{}.Raised(st), Numbers: 1000},
	}
	for v, ref := range x.meta.Orders {
		m.Bound[v] = ref.Digest
	}
	for j, w := range l.said {
		if w != 0 && j != i {
			m.Records = append(m.Records, s.signed(j, w, 1))
		}
	}
	n := must(node.New(node.Config{
		Self: s.ids[i], Key: s.keys[i].Public().(ed25519.PublicKey), Name: s.names(i), Class: "kv", Rules: s.Plant.Rules, Memo: &s.records,
	}, m, epoch))
	if l.synced {
		n.Step(epoch, node.Synced{})
	}
	if st.Running != 0 && !st.Phase.Down() && st.Phase != upgrade.Probing {
		n.Step(epoch, node.SoftwareUp{Version: st.Running})
	}
	return n
}

// outcome is what a node wants, up to the next state that it saves, and what it says then.
type outcome struct {
	saved   *upgrade.State
	says    words
	said    bool
	actions []upgrade.Action
	check   *node.Check
}

// run carries out what a node wants. Where it says so it goes as far as the next state
// that is saved and told; else only as far as that leaves what is durable as it is.
func (s *states) run(n *node.Node, on bool) (got outcome) {
	got.says = wordsOf(n)
	for {
		r := n.Ready()
		if r.Save != nil && r.Save.State != nil {
			if got.saved != nil || !on {
				if got.saved == nil {
					got.saved = r.Save.State
				}
				return got
			}
			got.saved = r.Save.State
			got.actions = nil
		}
		if r.Empty() {
			return got
		}
		for _, a := range r.Actions {
			if _, keeps := a.(upgrade.Run); !keeps {
				got.actions = append(got.actions, a)
			}
		}
		if r.Check != nil {
			got.check = r.Check
		}
		n.Advance(r)
		if r.Tell != nil {
			got.says, got.said = words{r.Tell.Version, r.Tell.Obeys, r.Tell.Ended}, true
		}
		for _, doc := range r.Read {
			s.read(n, doc)
		}
	}
}

// wordsOf is what a node would say now.
func wordsOf(n *node.Node) words {
	s := n.Saved()
	return words{s.Claims(), s.Obeys, view.Ended{Release: s.EndedRelease, Count: s.EndedCount}}
}

func (s *states) read(n *node.Node, doc node.Document) {
	switch {
	case doc.Known:
		n.Step(epoch, node.DocumentHere{Document: doc})
	case s.manifests[doc.Digest] != nil:
		n.Step(epoch, node.ManifestRead{Document: doc, Manifest: s.manifests[doc.Digest]})
	default:
		s.tell(n, node.OrderRead{Document: doc, Order: s.orders[doc.Digest]})
	}
}

// answer answers an action.
func (s *states) answer(n *node.Node, a upgrade.Action, failed bool) {
	var e upgrade.Event
	step, mayFail := uint64(0), false
	switch a := a.(type) {
	case upgrade.Fetch:
		e = upgrade.Staged{Step: a.Step}
	case upgrade.Drain:
		step, mayFail = a.Step, true
		if !failed {
			n.Step(epoch, node.SoftwareStops{})
		}
		e = upgrade.Drained{Step: a.Step}
	case upgrade.Transform:
		step, mayFail = a.Step, true
		e = upgrade.Transformed{Step: a.Step, To: a.To}
	case upgrade.Launch:
		n.Step(epoch, node.SoftwareUp{Version: a.Version})
		e = upgrade.Ready{Step: a.Step}
	case upgrade.Admit:
		n.Step(epoch, node.SoftwareUp{Version: a.Version})
		n.Step(epoch, node.LetIn{})
		e = upgrade.Admitted{Step: a.Step}
	case upgrade.Probe:
		step, mayFail = a.Step, true
		e = upgrade.Healthy{Step: a.Step}
	case upgrade.Settle:
		e = upgrade.Recorded{Step: a.Step}
	case upgrade.Rollback:
		n.Step(epoch, node.SoftwareUp{Version: a.To})
		e = upgrade.RolledBack{Step: a.Step}
	}
	if failed && mayFail {
		e = upgrade.Failed{Step: step, Reason: "it fails"}
	}
	n.Step(epoch, node.ActionEnded{Answer: e})
}

// word is the index of what a record says.
func (s *states) word(w words) word8 {
	if i := slices.Index(s.words, w); i >= 0 {
		return word8(i)
	}
	s.words = append(s.words, w)
	if len(s.words) > 255 {
		panic("every: more words than a byte counts")
	}
	return word8(len(s.words) - 1)
}

// signed is a record that a node has signed, with this number.
func (s *states) signed(i int, w word8, number uint64) view.Signed {
	k := signedWord{i, w, number}
	if r, ok := s.signatures[k]; ok {
		return r
	}
	x := s.words[w]
	r := must(view.Sign(s.keys[i], view.Record{
		Name: s.names(i), Class: "kv", Seq: number, Phase: upgrade.Current, Version: x.Version, Running: x.Version,
		Obeys: x.Obeys, Ended: x.Ended, Reads: 2,
	}))
	s.signatures[k] = r
	return r
}

type signedWord struct {
	node   int
	word   word8
	number uint64
}
