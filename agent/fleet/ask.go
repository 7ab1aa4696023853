package fleet

import (
	"slices"
	"time"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/gossip/view"
	"moult/store/bundle"
)

// publish has the others hear what a node says, after the network's delay.
func (f *fleet) publish(i int) {
	r := f.says(&f.nodes[i])
	f.push(event{at: f.now + f.Delay, node: i, heard: &r})
}

// happen does what an event says.
func (f *fleet) happen(e event) {
	switch n := &f.nodes[max(e.node, 0)]; {
	case e.node < 0:
		f.news = true
	case e.heard != nil:
		f.news = f.news || decides(n.known) != decides(*e.heard) && (f.awaited < 0 || f.awaited == e.node)
		n.known = *e.heard
		f.tally.Note(n.id, n.known, true)
	default:
		before := n.machine.State().Phase
		n.machine.Step(e.answer)
		f.carryOut(e.node)
		f.settle(n)
		if s := n.machine.State(); s.Phase == upgrade.Waiting && before != upgrade.Waiting {
			at, _ := slices.BinarySearchFunc(f.waiting, n.rank, func(j, rank int) int { return f.nodes[j].rank - rank })
			f.waiting = slices.Insert(f.waiting, at, e.node)
			f.news = f.news || f.awaited < 0 || at == 0
		}
		if _, recorded := e.answer.(upgrade.Recorded); recorded || n.machine.State().Phase == upgrade.Held {
			f.last = f.now
		}
	}
}

// decides is what of a record others go by.
func decides(r view.Record) [5]uint64 {
	well := uint64(0)
	if r.Health.Failed.Release != 0 {
		well = 1
	}
	return [5]uint64{uint64(r.Version), uint64(r.Ended.Count), uint64(r.Obeys), uint64(r.Health.Soaked), well}
}

// ask has the nodes ask whose turn may have come, by rank, as long as some may go.
func (f *fleet) ask() {
	for f.news {
		f.news, f.awaited = false, -1
		full := map[int]bool{} // zones in which one was refused: so would those behind it
		for at := 0; at < len(f.waiting); at++ {
			i := f.waiting[at]
			if full[f.nodes[i].zone] {
				continue
			}
			d := schedule.Decide(f.input(i))
			f.asked++
			if d.Go {
				f.waiting = slices.Delete(f.waiting, at, at+1)
				at--
				f.nodes[i].machine.Step(upgrade.Go{Goal: release})
				f.carryOut(i)
				continue
			}
			// It waits for all of a wave, and so for the last; but those of other zones that
			// were refused before wait for others.
			if c := d.Reason.Code; len(full) == 0 && (c == schedule.CodeCanary || c == schedule.CodeSoak) {
				f.awaited = f.at[d.Reason.Nodes[len(d.Reason.Nodes)-1]]
			}
			if r := d.Reason.Retry; r > 0 && (f.again <= f.now || f.now+r < f.again) {
				f.again = f.now + r
				f.push(event{at: f.again, node: -1})
			}
			if d.Reason.Code == schedule.CodeChance {
				continue // each has its own
			}
			// Nobody behind may go either, but nodes of other zones.
			if full[f.nodes[i].zone] = true; d.Reason.Code != schedule.CodeSpread || len(full) == len(f.zones) {
				break
			}
		}
	}
}

func (f *fleet) input(i int) schedule.Input {
	return schedule.Input{
		Self: f.nodes[i].id, Class: f.Class, Order: f.order, Tally: f.tally, Synced: true, Now: f.Begin.Add(f.now), Zone: f.Zone,
		Lookup: func(id bundle.NodeID) (view.Record, bool) {
			j := f.at[id]
			if j == i {
				return f.says(&f.nodes[i]), true
			}
			return f.nodes[j].known, true
		},
	}
}

func (f *fleet) report() Report {
	r := Report{
		Nodes: f.Nodes, MostDown: f.most, MostDownZone: f.mostZone, Mixed: bundle.Duration(f.mixed.Round(time.Second)),
		Took: bundle.Duration(f.last.Round(time.Second)), Availability: float64(f.Nodes-f.most) / float64(f.Nodes), Mean: 1, Asked: f.asked,
	}
	if f.now > 0 {
		r.Mean = min(1, f.sum/f.now.Seconds()/float64(f.Nodes))
	}
	sum := schedule.Summary(f.order, func(id bundle.NodeID) (view.Record, bool) { return f.says(&f.nodes[f.at[id]]), true })
	r.State, r.Reason = sum.State, sum.Reason
	p := sum.Classes[f.Class]
	r.Settled, r.Failed = p.Settled, p.Held+p.Unwell
	return r
}
