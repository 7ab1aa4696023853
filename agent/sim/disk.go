package sim

import (
	"moult/agent/node"
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// content stands for the content of a slot, so that == is what equal digests
// would say: the release whose software made its form, by which manifest of that, how
// many of the writes that callers were promised it holds, and whether it is whole. The
// zero content is no slot.
type content struct {
	form   bundle.Version
	by     bundle.Digest // zero: from before the simulation
	writes int
	// details are what only the form of a release, and later ones, can hold.
	details [maxRelease + 1]int
	whole   bool
}

// disk is what a host keeps. It has two kinds of fields: what is durable as
// soon as it is set, since the code that sets it waits for the disk; and pairs
// of what the running system sees and what is synced, which a power loss may
// bring back.
type disk struct {
	// Durable.
	journal []byte // the state as last saved; nil: none, or lost with the database
	floor   node.Floor
	docs    []bundle.Digest
	records []view.Signed // the view as last persisted
	// set is the metadata in force, evidence a set that contradicts others.
	set, evidence *set
	bound, frozen [maxRelease + 1]bundle.Digest
	answering     node.Answering
	observed      schedule.Observed
	// written are the states saved last, oldest first, each with its floor. Without
	// the floor file the newest may be lost, and nobody can tell: doubt.
	written []saved
	doubt   bool
	ran     bundle.Version // the software that was started last, and not stopped; 0: none

	// slots and current as the running system sees them; synced and
	// currentSynced as a power loss leaves them, at worst.
	slots, synced          [maxRelease + 1]content
	current, currentSynced bundle.Version
	full                   bool // nothing more fits: nothing can be saved
	// loose marks slots that have their name, but whose files are not synced:
	// a power loss tears them.
	loose [maxRelease + 1]bool
	// complement is what was kept of the details of a release when it was taken back. It is
	// synced before the slot has its name.
	complement [maxRelease + 1]int
}

// saved is what was written at once.
type saved struct {
	journal []byte
	floor   node.Floor
}

// keep notes what was written last.
func (d *disk) keep() {
	d.written = append(d.written, saved{d.journal, d.floor})
	if len(d.written) > tail {
		d.written = d.written[1:]
	}
}

// loseTail takes the floor file, and some of what was written last; of some also what
// names the live slot, where something else still tells it.
func (d *disk) loseTail(s *simulation, name bool) {
	if len(d.written) > 0 {
		last := pick(s, d.written)
		d.journal, d.floor, d.doubt = last.journal, last.floor, true
	}
	if name && d.ran != 0 {
		d.current, d.currentSynced = 0, 0
	}
}

// memory is what an agent that starts is told of the disk. Where there is only
// software from before moult, its state becomes a slot.
func (h *host) memory() node.Memory {
	d := &h.disk
	m := node.Memory{Floor: d.floor, Records: d.records, Bound: byRelease(d.bound), Frozen: byRelease(d.frozen), Answering: d.answering, Observed: d.observed}
	switch {
	case d.journal != nil:
		s := must(upgrade.ParseState(d.journal))
		m.State = &s
		if d.doubt {
			m.Doubt = "the floor file is missing"
		}
	case d.current == 0 && h.adopt != 0:
		d.current, m.Adopted = h.adopt, true
		d.sync()
	}
	m.Slot, m.Ran = d.current, d.ran
	for v := range d.slots {
		if d.slots[v] != (content{}) {
			m.Slots = append(m.Slots, bundle.Version(v))
		}
	}
	if d.set != nil {
		m.Metadata = d.set.meta
	}
	if d.evidence != nil {
		m.Evidence = d.evidence.meta
	}
	return m
}

func byRelease(digests [maxRelease + 1]bundle.Digest) map[bundle.Version]bundle.Digest {
	m := map[bundle.Version]bundle.Digest{}
	for v, d := range digests {
		if !d.IsZero() {
			m[bundle.Version(v)] = d
		}
	}
	return m
}

// sync makes folder entries durable.
func (d *disk) sync() { d.synced, d.currentSynced = d.slots, d.current }

// write adds a promised write to a slot. The software syncs it before it
// answers; the entry of the slot in its folder may still be unsynced.
func (d *disk) write(v bundle.Version) {
	d.slots[v].writes++
	d.slots[v].details[v]++
	if d.synced[v] != (content{}) {
		d.synced[v] = d.slots[v]
	}
}

// powerLoss lets each entry that is not synced come out either way.
func (d *disk) powerLoss(s *simulation) {
	for v := range d.slots {
		if d.slots[v] != d.synced[v] && s.chance(0.5) {
			d.slots[v] = d.synced[v]
		}
		if d.loose[v] && d.slots[v] != (content{}) {
			d.slots[v].whole = false
		}
		d.loose[v] = false
	}
	if d.current != d.currentSynced && s.chance(0.5) {
		d.current = d.currentSynced
	}
	d.sync()
}

// loseDatabase leaves the slots and the floor.
func (d *disk) loseDatabase() {
	d.journal = nil
	d.docs, d.records, d.set, d.evidence = nil, nil, nil, nil
	d.answering, d.observed, d.written, d.doubt = node.Answering{}, schedule.Observed{}, nil, false
	d.bound, d.frozen = [maxRelease + 1]bundle.Digest{}, [maxRelease + 1]bundle.Digest{}
}
