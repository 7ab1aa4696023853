package upgrade

import (
	"fmt"
	"slices"

	"moult/gossip/view"
	"moult/store/bundle"
)

// Machine is the per-node machine. It is not safe for concurrent use: one
// goroutine owns it.
type Machine struct {
	state   State
	save    bool
	actions []Action
	// rehearses: the schedule has let the node rehearse, in this step. After a crash it is
	// asked anew.
	rehearses bool
	// finishing: the action that finalizes is under way, in this step. After a crash it is
	// asked for anew.
	finishing bool
}

// Todo is what the driver must do next, in this order: make Save durable (nil:
// nothing changed), start Actions, call Advance.
type Todo struct {
	Save    *State
	Actions []Action
}

// Empty reports whether there is nothing to do.
func (t Todo) Empty() bool { return t.Save == nil && len(t.Actions) == 0 }

// New returns a machine that goes on from a saved state: the first Todo has
// the actions that the state waits for, whether or not they were started, or
// done, before. The zero State is a node without software.
func New(s State) (*Machine, error) {
	if s.Phase == "" {
		s.Phase = Current
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	m := &Machine{state: s}
	m.resume()
	return m, nil
}

// State returns the present state; it is durable once the Todo that carries it
// has been saved.
func (m *Machine) State() State {
	s := m.state
	s.Path = slices.Clone(s.Path)
	return s
}

// Todo returns what is to be done. It is the same until Advance or Step.
func (m *Machine) Todo() Todo {
	t := Todo{Actions: m.actions}
	if m.save {
		t.Save = new(m.State())
	}
	return t
}

// Advance says that the last Todo has been saved and its actions started.
func (m *Machine) Advance() {
	m.save = false
	m.actions = nil
}

// resume lists the actions that the state waits for.
func (m *Machine) resume() {
	s := m.state
	if m.serving() {
		m.do(Run{s.Running})
	}
	switch s.Phase {
	case Fetching:
		m.do(Fetch{s.Step, slices.Clone(s.Path)})
	case Draining:
		m.do(Drain{s.Step, s.Running})
	case Transforming:
		m.do(m.nextTransform())
	case Starting:
		m.do(Launch{s.Step, s.Software()})
	case Probing:
		m.do(Admit{s.Step, s.Running})
	case Settled:
		m.do(Settle{s.Step, s.Version})
	case RollingBack:
		m.do(Rollback{s.Step, s.Software(), s.Running})
	}
}

// serving reports whether the software of Running is to be kept up.
func (m *Machine) serving() bool {
	if !m.state.Served || m.state.Running == 0 {
		return false
	}
	switch m.state.Phase {
	case Current, Fetching, Rehearsing, Waiting, Held, Settled:
		return true
	}
	return false
}

// Step tells the machine what happened. Events that do not fit the present
// phase are ignored: they are late, or repeated.
func (m *Machine) Step(e Event) {
	switch e := e.(type) {
	case Begin:
		if m.state.Phase == Current && m.state.Running != 0 && !m.state.Served {
			m.state.Served = true
			m.enter(Current)
		}
	case Target:
		m.target(e)
	case Turn:
		m.turn(e)
	case Closed:
		m.closed(e)
	case Withdrawn:
		m.withdrawn(e)
	case Retry:
		if m.state.Phase == Held && m.state.Failed() == e.Release {
			m.retry()
		}
	case Reminded:
		m.reminded(e.Promises)
	case Soaked:
		m.soaked(e)
	case SoakFailed:
		m.soakFailed(e)
	case Finalize:
		m.finalize(e)
	case Go:
		m.mayGo(e)
	case MayRehearse:
		m.mayRehearse(e)
	case Interrupt:
		if m.Rehearses() {
			m.enter(Rehearsing)
		}
	default:
		m.answer(e)
	}
}

// answer takes the events that end an action.
func (m *Machine) answer(e Event) {
	s := &m.state
	switch e := e.(type) {
	case Staged:
		if m.awaits(Fetching, e.Step) {
			m.staged()
		}
	case Rehearsed:
		if m.awaits(Rehearsing, e.Step) {
			s.Rehearsed, s.Reason = view.Rehearsal{Release: s.Goal, Outcome: view.RehearsalOK, Reason: clip(e.Reason), Took: e.Took, Down: e.Down}, ""
			s.Unable = 0
			m.enter(Waiting)
		}
	case Drained:
		if m.awaits(Draining, e.Step) {
			m.enter(Transforming)
		}
	case Transformed:
		if m.awaits(Transforming, e.Step) && e.To == s.Path[s.Done] {
			m.transformed()
		}
	case Ready:
		if m.awaits(Starting, e.Step) {
			// Saved before the first call is let in: from here on the new slot
			// may hold writes that callers were promised.
			s.Running, s.Served = s.Software(), true
			s.Said = max(s.Said, s.Reverts) // callers were let in there, and what they left is put aside
			m.enter(Probing)
		}
	case Admitted:
		if m.awaits(Probing, e.Step) {
			m.do(Probe{s.Step, s.Running})
		}
	case Healthy:
		if m.awaits(Probing, e.Step) {
			m.settle(s.Goal)
		}
	case Recorded:
		if m.awaits(Settled, e.Step) {
			m.finish()
		}
	case Finalized:
		if m.finishing && m.awaits(Current, e.Step) {
			m.finishing, s.Finalized, m.save = false, s.Version, true
		}
	case RolledBack:
		if m.awaits(RollingBack, e.Step) {
			m.rolledBack(e.Reason)
		}
	case Failed:
		if e.Step == s.Step {
			m.failed(e)
		}
	}
}

// settle notes that the node is well at a version. What it has said of a later one, which
// it has taken back, it goes on saying.
func (m *Machine) settle(v bundle.Version) {
	s := &m.state
	s.Said = max(s.Said, s.Reverts)
	if v < s.Version {
		s.Said = max(s.Said, s.Version)
	}
	s.Version = v
	if s.inTurn() {
		s.Turned.Done = true
	}
	m.enter(Settled)
}

// reminded takes over promises that this state does not know. An attempt under
// way is not disturbed; a node that would begin one under an order that it has
// promised not to obey any more goes back to what it runs.
func (m *Machine) reminded(p Promises) {
	s := &m.state
	was := *s
	if p.Settled > s.Version { // else it is known
		s.Said = max(s.Said, p.Settled)
	}
	s.Obeys = max(s.Obeys, p.Obeys)
	if p.EndedRelease > s.EndedRelease {
		s.EndedRelease, s.EndedCount = p.EndedRelease, p.EndedCount
	} else if p.EndedRelease == s.EndedRelease {
		s.EndedCount = max(s.EndedCount, p.EndedCount)
	}
	s.promise(p.Turned)
	s.Final = max(s.Final, p.Final)
	if s.Said == was.Said && s.Final == was.Final && s.Turned == was.Turned && s.Obeys == was.Obeys && s.EndedRelease == was.EndedRelease && s.EndedCount == was.EndedCount {
		return
	}
	if s.Phase.Ahead() && s.Order() < s.Obeys {
		m.closed(Closed{Reason: "this data folder is older than what the node has said: it has promised to obey a newer order"})
		return
	}
	t := s.Turned
	if later := was.Turned.Before(t.Release, t.Turn) || t.Done && !was.Turned.Done; later && s.Order() == t.Release && (s.Phase.Ahead() || s.Phase == Held) {
		m.drop()
		s.Reason = "this data folder is older than what the node has said: it goes by a later order of the release"
		m.enter(Current)
		return
	}
	m.save = true
}

// soaked and soakFailed note how the soak of the settled release has ended. Neither
// disturbs what is under way.
func (m *Machine) soaked(e Soaked) {
	if s := &m.state; e.Release == s.Version && s.Reverts == 0 && s.Soaked < e.Release {
		s.Soaked, m.save = e.Release, true
	}
}

func (m *Machine) soakFailed(e SoakFailed) {
	if s := &m.state; e.Release == s.Version && s.Reverts == 0 && s.Soaked < e.Release && e.Places > 0 && !s.FailedSoak(e.Places) {
		s.FailedRelease, s.FailedCount, m.save = e.Release, e.Places, true
	}
}

func (m *Machine) closed(e Closed) {
	s := &m.state
	if !s.Phase.Ahead() {
		return
	}
	m.drop()
	s.Reason = clip(e.Reason)
	m.enter(Current)
}

// withdrawn ends an attempt that has not been admitted: a node that is down goes back,
// which is the end of this attempt, and the last at that release.
func (m *Machine) withdrawn(e Withdrawn) {
	switch s := &m.state; s.Phase {
	case Fetching, Rehearsing, Waiting:
		m.closed(Closed(e))
	case Draining, Transforming, Starting:
		s.Reason, s.Back = clip(e.Reason), Held
		m.enter(RollingBack)
	}
}

func (m *Machine) retry() {
	s := &m.state
	s.Reason = ""
	if s.Reverts == 0 && s.Goal != s.EndedRelease {
		// The attempt that ended was made before the data folder became older:
		// nothing of it is left to go on with.
		m.drop()
		m.enter(Current)
		return
	}
	if s.admitted() {
		// It is held on the new software; the attempt goes on where it stopped.
		m.enter(Probing)
		return
	}
	s.Done, s.Rehearsed, s.Unable = 0, view.Rehearsal{}, 0
	m.enter(Fetching)
}

// staged goes on to the rehearsal or the schedule, or straight on where no caller can
// miss the node: it has never served.
func (m *Machine) staged() {
	s := &m.state
	if s.Rehearse && !s.Served {
		s.Rehearsed = view.Rehearsal{Release: s.Goal, Outcome: view.RehearsalSkipped, Reason: "it has never served, so nobody misses it while it tries"}
	}
	switch {
	case s.Served && !s.Cleared():
		m.enter(Rehearsing)
	case s.Served:
		m.enter(Waiting)
	case s.Running == 0:
		m.enter(Transforming)
	default:
		m.enter(Draining)
	}
}

// mayGo takes the schedule's word. What is not rehearsed, though it must be, is first.
func (m *Machine) mayGo(e Go) {
	switch s := &m.state; {
	case s.Phase != Waiting || s.Goal != e.Goal:
	case !s.Cleared():
		m.enter(Rehearsing)
	default:
		m.enter(Draining)
	}
}

// mayRehearse takes the schedule's word that the node may rehearse now.
func (m *Machine) mayRehearse(e MayRehearse) {
	if s := &m.state; s.Phase == Rehearsing && s.Goal == e.Goal && !m.rehearses {
		m.rehearses = true
		m.do(Rehearse{s.Step, s.Running, slices.Clone(s.Path), s.Unable})
	}
}

// Rehearses reports whether a rehearsal is under way: without, in that phase, the node waits
// for the schedule's word.
func (m *Machine) Rehearses() bool { return m.state.Phase == Rehearsing && m.rehearses }

func (m *Machine) transformed() {
	s := &m.state
	s.Done++
	if s.Done == len(s.Path) {
		m.enter(Starting)
		return
	}
	m.enter(Transforming)
}

// nextTransform is the transform of Path[Done].
func (m *Machine) nextTransform() Transform {
	s := m.state
	from := s.Running
	if s.Done > 0 {
		from = s.Path[s.Done-1]
	}
	return Transform{Step: s.Step, From: from, To: s.Path[s.Done]}
}

// failed decides what a failure leads to.
func (m *Machine) failed(e Failed) {
	s := &m.state
	reason := clip(e.Reason)
	switch s.Phase {
	case Fetching:
		m.hold(reason)
	case Rehearsing:
		m.notRehearsed(e, reason)
	case Draining, Transforming, Starting:
		s.Reason, s.Back = reason, Held
		if e.Later && s.Running != 0 {
			s.Back = Waiting
		}
		if s.Phase == Draining { // it was not to be stopped yet, so nothing was
			m.rolledBack("")
			return
		}
		m.enter(RollingBack)
	case Probing:
		m.hold(fmt.Sprintf("%s; calls had been admitted to version %d, so going back would lose acknowledged writes", reason, s.Running))
	}
}

// notRehearsed decides what a rehearsal leads to that did not go well. One that cannot be
// made, again and again, is held as one that failed is: no node goes down for what it has
// not tried, and its class must not wait for it in silence.
func (m *Machine) notRehearsed(e Failed, reason string) {
	s := &m.state
	switch {
	case e.Later:
		m.enter(Fetching)
	case e.Unable && s.Unable+1 < maxUnable:
		s.Unable++
		s.Reason = clip("its rehearsal could not be made, and is tried again: " + reason)
		m.enter(Rehearsing)
	case e.Unable:
		s.Rehearsed = view.Rehearsal{Release: s.Goal, Outcome: view.RehearsalUnable, Reason: reason}
		m.hold(clip(fmt.Sprintf("its rehearsal could not be made, tried %d times: %s", maxUnable, reason)))
	default:
		s.Rehearsed = view.Rehearsal{Release: s.Goal, Outcome: view.RehearsalFailed, Reason: reason, Took: e.Took}
		m.hold("its rehearsal failed: " + reason)
	}
}

func (m *Machine) rolledBack(reason string) {
	s := &m.state
	if reason != "" {
		s.Reason = clip(s.Reason + "; after rolling back: " + reason)
	}
	back := s.Back
	s.Back, s.Done = "", 0
	if back == Waiting {
		s.Served = true // it is up, and now somebody would miss it
		m.enter(Waiting)
		return
	}
	m.hold(s.Reason)
}

// hold ends the attempt without settling. Only here is an attempt counted as
// ended: the node is up again, or never went down.
func (m *Machine) hold(reason string) {
	s := &m.state
	if s.inTurn() && !s.Turned.Done {
		s.Turned.Ended++
	}
	if s.EndedRelease < s.Goal && s.Reverts == 0 {
		s.EndedRelease, s.EndedCount = s.Goal, 0
	}
	if s.EndedRelease == s.Goal && s.Reverts == 0 { // it is newer where the node was reminded during the attempt
		s.EndedCount++
	}
	s.Reason = reason
	s.Served = s.Served || s.Running != 0
	m.enter(Held)
}

func (m *Machine) finish() {
	m.drop()
	m.state.Reason = ""
	m.enter(Current)
}

// drop forgets the goal, and all that only the way to it needs.
func (m *Machine) drop() {
	s := &m.state
	s.stay()
	s.Goal, s.Path, s.Done, s.Rehearse, s.Unable, s.Reverts = 0, nil, 0, false, 0, 0
	s.Manifests = s.meant(Target{})
}

// enter begins a phase: a new step, saved before its action.
func (m *Machine) enter(p Phase) {
	m.state.Phase = p
	m.state.Step++
	m.save, m.rehearses, m.finishing = true, false, false
	m.actions = nil // what was to be done under the old step is not started any more
	m.resume()
}

func (m *Machine) do(a ...Action) { m.actions = append(m.actions, a...) }

// awaits reports whether the machine waits, in phase p, for the answer to the
// action of this step.
func (m *Machine) awaits(p Phase, step uint64) bool {
	return m.state.Phase == p && m.state.Step == step
}

// Adopted returns the state of a node whose software of version v ran before
// moult looked after it, with its state already in slot v.
func Adopted(v bundle.Version) State {
	return State{Phase: Current, Version: v, Running: v}
}

func clip(s string) string {
	if len(s) <= maxReason {
		return s
	}
	return s[:maxReason] + "…"
}
