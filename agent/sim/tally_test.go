package sim

import (
	"reflect"
	"testing"

	"moult/agent/node"
	"moult/agent/schedule"
)

// compared runs simulations in which each question of a node to its schedule is asked twice: by
// the tally that tallyFor returns, and by one that is made anew. It returns how often
// the first was another than that, how often the answer was, and an example of that.
func compared(seeds uint64, tallyFor func(schedule.Input) *schedule.Tally) (kept, differ int, example [2]schedule.Decision) {
	compare := func(rule func(schedule.Input) schedule.Decision) func(schedule.Input) schedule.Decision {
		return func(in schedule.Input) schedule.Decision {
			other := in
			in.Tally = nil
			anew := rule(in)
			if other.Tally == nil {
				return anew // a check of the simulator asks
			}
			kept++
			other.Tally = tallyFor(other)
			if d := rule(other); !reflect.DeepEqual(d, anew) {
				differ++
				example = [2]schedule.Decision{d, anew}
			}
			return anew
		}
	}
	p := Plant{Rules: node.Rules{Decide: compare(schedule.Decide), MayRehearse: compare(schedule.MayRehearse)}}
	for seed := range seeds {
		if r := Run(Config{Seed: seed, Plant: p}); r.Violation != nil {
			panic(r.String())
		}
	}
	return kept, differ, example
}

// TestTallyIsKept: whatever nodes hear, in whatever sequence, and by whatever orders, a node
// decides by what it has counted as it would if it counted anew.
func TestTallyIsKept(t *testing.T) {
	if testing.Short() {
		t.Skip("each simulation has one goroutine, so a race detector has nothing to see")
	}
	seeds := uint64(max(6, *seeds/40)) // make sim has more
	kept, differ, example := compared(seeds, func(in schedule.Input) *schedule.Tally { return in.Tally })
	if kept < 1000 || differ > 0 {
		t.Errorf("of %d decisions %d are others than those of a tally made anew; as %+v", kept, differ, example)
	}
	// And one that hears nothing would be found.
	deaf := map[*schedule.Tally]*schedule.Tally{}
	if _, differ, _ := compared(5, func(in schedule.Input) *schedule.Tally {
		if deaf[in.Tally] == nil {
			deaf[in.Tally] = schedule.NewTally(in.Order, in.Lookup)
		}
		return deaf[in.Tally]
	}); differ == 0 {
		t.Error("a tally that hears nothing makes no difference")
	}
}
