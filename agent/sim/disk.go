package sim

import (
	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// content stands for the content of a slot, so that == is what equal digests
// would say: the release whose software made its form, how many of the writes
// that callers were promised it holds, and whether it is whole. The zero
// content is no slot.
type content struct {
	form   bundle.Version
	writes int
	whole  bool
}

// disk is what a host keeps. It has two kinds of fields: what is durable as
// soon as it is set, since the code that sets it waits for the disk; and pairs
// of what the running system sees and what is synced, which a power loss may
// bring back.
type disk struct {
	// Durable.
	journal []byte // the state as last saved; nil: none, or lost with the database
	floor   floor
	set     *set              // the metadata in force
	orders  []*schedule.Order // documents
	known   [maxRelease + 1]bool
	records []view.Signed // the view as last persisted

	// slots and current as the running system sees them; synced and
	// currentSynced as a power loss leaves them, at worst.
	slots, synced          [maxRelease + 1]content
	current, currentSynced bundle.Version
	full                   bool // nothing more fits: no state can be saved
	// loose marks slots that have their name, but whose files are not synced:
	// a power loss tears them.
	loose [maxRelease + 1]bool
}

// floor is what survives even the loss of the database.
type floor struct {
	timestamp int64
	promises  upgrade.Promises
	recordSeq uint64
}

// raise keeps of a state what must survive the loss of the journal.
func (f *floor) raise(s upgrade.State) {
	p := &f.promises
	p.Settled, p.Obeys = max(p.Settled, s.Claims()), max(p.Obeys, s.Obeys)
	if s.EndedRelease > p.EndedRelease {
		p.EndedRelease, p.EndedCount = s.EndedRelease, 0
	}
	if s.EndedRelease == p.EndedRelease {
		p.EndedCount = max(p.EndedCount, s.EndedCount)
	}
}

// sync makes folder entries durable.
func (d *disk) sync() { d.synced, d.currentSynced = d.slots, d.current }

// write adds a promised write to a slot. The software syncs it before it
// answers; the entry of the slot in its folder may still be unsynced.
func (d *disk) write(v bundle.Version) {
	d.slots[v].writes++
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
	d.set, d.orders, d.known, d.records = nil, nil, [maxRelease + 1]bool{}, nil
}
