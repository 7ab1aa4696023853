package node

import (
	"fmt"
	"slices"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// Memory is what the disk says of earlier runs.
type Memory struct {
	// State is the machine's as last saved; nil: none, or lost with the database.
	State *upgrade.State
	// Slot is the release of the live slot; 0 for none. Adopted says that it was
	// made just now, of software that ran before moult.
	Slot    bundle.Version
	Adopted bool
	// Slots are the releases of all slots, and Ran is that of the software which was
	// started last and not stopped, 0 for none: evidence where it is lost which slot is
	// live. See Seek.
	Slots []bundle.Version
	Ran   bundle.Version
	Floor Floor
	// Doubt says that the disk may have lost what was written last; "" if not.
	Doubt string
	// Apart is what [Node.Apart] has said in an earlier run, and nobody has answered; "" for nothing.
	Apart string
	// Metadata were in force; where they are lost, those of the first root.
	Metadata Metadata
	// Evidence is the set that contradicts others; zero for none.
	Evidence Metadata
	Frozen   map[bundle.Version]bundle.Digest // the manifest held of each release
	Bound    map[bundle.Version]bundle.Digest // rollout orders in force
	Records  []view.Signed                    // the view, as last kept

	Answering Answering
	Observed  schedule.Observed // until a release is finalized by its own word
	Agents    schedule.AgentMemory
}

// Seek finds out which slot is live where nothing names one. Software writes only to the
// slot that it was started on, and a slot is made of the one before while no software runs:
// so that of the software which was started last has all that was acknowledged. The error
// says that there is no telling, or that the slot is gone: to go on with another, or with
// none, would lose acknowledged writes.
// adopts: the slot of software from before moult may have been made, and not named yet.
func (m *Memory) Seek(adopts bool) error {
	s := m.State
	follows := func(v bundle.Version) bool {
		back := s.Turned.Max(m.Floor.Promises.Turned).Release == s.Running
		return v > s.Running || back && v < s.Running
	}
	switch {
	case m.Slot != 0:
		return nil
	case s != nil && (m.Doubt == "" && m.Ran <= s.Software() || m.Ran == s.Running):
		return nil // the journal tells
	case slices.Contains(m.Slots, m.Ran):
		m.Slot = m.Ran
	case s != nil && !slices.ContainsFunc(m.Slots, follows):
		return nil // nothing can have come after what the journal tells
	case m.Ran != 0:
		return fmt.Errorf("software of version %d ran here, and its state is gone (slots of versions %v are here): restore it from a backup, or, to let this peer join anew, move the whole folder away", m.Ran, m.Slots)
	case len(m.Slots) == 0 || adopts && m.Floor.Promises == (upgrade.Promises{}):
		return nil
	case s == nil && len(m.Slots) == 1:
		m.Slot = m.Slots[0]
	default:
		return fmt.Errorf("nothing says any more which of the slots %v is live, since state/current, process.json and the journal (or its end) are lost: name it (`ln -s VERSION current` in the folder state), and start the agent again", m.Slots)
	}
	if s == nil {
		m.Doubt = fmt.Sprintf("version %d is taken to be live, and neither a journal nor state/current says so", m.Slot)
	}
	return nil
}

// state is the machine's as last saved, or what the slots and the floor say where
// none is: at the node's first start, or after the loss of the database. A slot is made
// the live one once it is recorded that callers may be let in to it, so a state that
// knows less than the live slot has lost its end, and counts for its promises only:
// what the attempt in it would clear away may hold acknowledged writes.
func (m Memory) state() upgrade.State {
	p := m.Floor.Promises
	switch {
	case m.behind():
		return upgrade.Restored(m.Slot, p.Raised(*m.State))
	case m.State != nil && m.Doubt != "":
		return upgrade.Abandoned(*m.State)
	case m.State != nil:
		return *m.State
	case m.Slot != 0 && m.Adopted:
		return upgrade.Adopted(m.Slot)
	case m.Slot != 0:
		return upgrade.Restored(m.Slot, p)
	}
	return upgrade.State{
		Phase: upgrade.Current, Said: p.Settled, Obeys: p.Obeys, EndedRelease: p.EndedRelease, EndedCount: p.EndedCount, Turned: p.Turned, Final: p.Final,
	}
}

// behind reports that the state is older than the live slot. The slot has its name a
// little after it is recorded that callers may be let in to it: until then the other one is
// live. Where the newest state may be lost, the software that was started last tells.
func (m Memory) behind() bool {
	s := m.State
	switch {
	case s == nil || m.Slot == 0 || m.Slot == s.Running:
		return false
	case m.Doubt != "":
		return m.Slot > s.Running && s.Reverts == 0 || m.Ran != s.Running
	case s.Reverts == m.Slot:
		return false // it is being taken back, and callers have been let in to the one before
	}
	return m.Slot > s.Running
}

// doubt says what makes it doubtful that the disk has all that was written; "" for
// nothing.
func (m Memory) doubt() string {
	switch {
	case m.behind():
		return fmt.Sprintf("the journal ends while version %d ran, and version %d is live", m.State.Running, m.Slot)
	case m.Doubt != "":
		return m.Doubt
	case m.State != nil && m.Ran > max(m.State.Running, m.State.Software()):
		return fmt.Sprintf("version %d ran here, and the journal ends before it was started", m.Ran)
	case m.State == nil && m.Slot != 0 && !m.Adopted && m.Floor.Promises == (upgrade.Promises{}):
		return fmt.Sprintf("version %d is live, and there is no journal", m.Slot)
	}
	return ""
}

// Floor is what survives even the loss of the database. Nothing in it ever goes
// down (P2).
type Floor struct {
	trust.Versions
	Release  bundle.Version // the newest that was known
	Promises upgrade.Promises
	// Expired is the greatest timestamp version of metadata that had expired by this
	// node's clock. They stay so, whatever the clock says later.
	Expired int64
	// Members is the greatest serial of who belongs to the cluster that was known.
	Members uint64
	// Numbers is the greatest number that a record may have been signed with.
	Numbers uint64
}

// check reports trust.ErrRollback where metadata are older than what was acted on.
func (f Floor) check(m Metadata) error {
	if err := m.Versions.Check(f.Versions); err != nil {
		return err
	}
	if m.Members.Serial < f.Members {
		return fmt.Errorf("%w: it names who belongs to the cluster as of serial %d, and serial %d is known", trust.ErrRollback, m.Members.Serial, f.Members)
	}
	if m.Head() < f.Release {
		return fmt.Errorf("%w: it ends at release %d, and release %d is known", trust.ErrRollback, m.Head(), f.Release)
	}
	return nil
}

// raise keeps of metadata what must survive.
func (f *Floor) raise(m Metadata) {
	f.Versions = f.Versions.Max(m.Versions)
	f.Release = max(f.Release, m.Head())
	f.Members = max(f.Members, m.Members.Serial)
}

// BelowFloor reports that peers must first bring back metadata at least as new as
// those that this peer has already acted on (P2).
func (n *Node) BelowFloor() bool { return n.floor.check(n.meta) != nil }
