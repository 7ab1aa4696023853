package upgrade

import (
	"fmt"
	"slices"
	"testing"

	"moult/store/bundle"
)

// This file crashes upgrades everywhere. A small world (slots, process,
// journal) carries out what the machine asks for, in parts, and passes a crash
// point before and after each part: before a save, between a save and its
// actions, in the middle of an action, between an action and its event.
// TestCrashAnywhere crashes every scenario at each point, in each way, and again
// at each point of what follows.

// way is how something crashes.
type way int

const (
	kill    way = iota // the agent dies, its software goes on
	powered            // the machine loses power; what was not synced was written all the same
	lost               // the machine loses power, and what was not synced with it
	ways
)

// crash is a crash at the n-th point after the last start.
type crash struct {
	point int
	way   way
}

// scenario is one story, and how it may end.
type scenario struct {
	name  string
	start State
	goals []Target
	// fails holds, for an action such as "transform 2", which times it fails:
	// the first is 1.
	fails   map[string][]int
	later   bool // the transform that fails asks to be tried later
	retries int  // how often the operator retries a node that is held
	// ends lists the versions at which it may settle; held says that it may end
	// in a hold.
	ends []bundle.Version
	held bool
}

func scenarios() []scenario {
	served := State{Phase: Current, Version: 1, Running: 1, Served: true}
	two := []Target{{Goal: 2, Path: []bundle.Version{2}}}
	both := []Target{{Goal: 3, Path: []bundle.Version{2, 3}}}
	rehearsed := []Target{{Goal: 3, Path: []bundle.Version{2, 3}, Rehearse: true}}
	return []scenario{
		{name: "1 to 2", start: served, goals: two, ends: []bundle.Version{2}},
		{name: "1 to 3 at once", start: served, goals: both, ends: []bundle.Version{3}},
		{name: "1 to 2, then 3", start: served, goals: append(slices.Clone(two), Target{Goal: 3, Path: []bundle.Version{3}}), ends: []bundle.Version{3}},
		{name: "a release that changes nothing here", start: served, goals: []Target{{Goal: 2}}, ends: []bundle.Version{2}},
		{name: "installation", goals: []Target{{Goal: 2, Path: []bundle.Version{2}}}, ends: []bundle.Version{2}},
		{name: "adopted, never served", start: Adopted(1), goals: two, ends: []bundle.Version{2}},
		{name: "the transform fails", start: served, goals: two, fails: map[string][]int{"transform 2": always}, held: true},
		{name: "the second transform fails once", start: served, goals: both, fails: map[string][]int{"transform 3": {1}}, retries: 1, ends: []bundle.Version{3}, held: true},
		{name: "the transform asks for later", start: served, goals: both, fails: map[string][]int{"transform 3": {1}}, later: true, ends: []bundle.Version{3}},
		{name: "rehearsed", start: served, goals: rehearsed, ends: []bundle.Version{3}},
		{name: "the rehearsal fails", start: served, goals: rehearsed, fails: map[string][]int{"rehearse 3": always}, retries: 1, held: true},
		{name: "the rehearsal cannot be made once", start: served, goals: rehearsed, fails: map[string][]int{"try 3": {1}}, ends: []bundle.Version{3}},
		{name: "the rehearsal fails once", start: served, goals: rehearsed, fails: map[string][]int{"rehearse 3": {1}}, retries: 1, ends: []bundle.Version{3}, held: true},
		{name: "never ready", start: served, goals: two, fails: map[string][]int{"launch 2": always}, held: true},
		{name: "ready once, then not", start: served, goals: two, fails: map[string][]int{"launch 2": {2, 3}}, ends: []bundle.Version{2}, held: true},
		{name: "unhealthy", start: served, goals: two, fails: map[string][]int{"probe 2": always}, held: true},
		{name: "unhealthy once", start: served, goals: two, fails: map[string][]int{"probe 2": {1}}, retries: 1, ends: []bundle.Version{2}, held: true},
		{name: "unhealthy, then a release that changes nothing here", start: served, goals: append(slices.Clone(two), Target{Goal: 3}),
			fails: map[string][]int{"probe 2": {1}}, ends: []bundle.Version{3}},
		{name: "an installation fails once", goals: []Target{{Goal: 2, Path: []bundle.Version{2}}}, fails: map[string][]int{"launch 2": {1}}, retries: 1, ends: []bundle.Version{2}, held: true},
	}
}

// always is more often than any run tries.
var always = []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}

// flaws are planted bugs of the driver. The zero value is the truth.
type flaws struct {
	actFirst  bool // actions are carried out before the state is saved
	noName    bool // a slot has its name before it is whole
	unsynced  bool // a save is not synced
	inPlace   bool // a transform works on the old slot
	keepSlots bool // slots of an earlier attempt are not cleared away
	onLive    bool // a rehearsal works on the live slot
	deaf      bool // a rehearsal that failed is taken for one that went well
	openEarly bool // callers are let in when the software is ready, before that is saved
}

// TestCrashAnywhere checks promises P5, P6 and P7.
func TestCrashAnywhere(t *testing.T) {
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			runs, err := crashEverywhere(sc, flaws{}, !testing.Short())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d runs", runs)
		})
	}
}

// TestCrashFindsPlantedBugs shows that some scenario finds each flaw.
func TestCrashFindsPlantedBugs(t *testing.T) {
	for name, f := range map[string]flaws{
		"actions before the save":           {actFirst: true},
		"a slot named before it is whole":   {noName: true},
		"a save that is not synced":         {unsynced: true},
		"a transform on the old slot":       {inPlace: true},
		"slots of an earlier attempt stay":  {keepSlots: true},
		"callers let in before it is saved": {openEarly: true},
		"a rehearsal on the live slot":      {onLive: true},
		"a failed rehearsal counts as good": {deaf: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, sc := range scenarios() {
				if _, err := crashEverywhere(sc, f, false); err != nil {
					t.Log(err)
					return
				}
			}
			t.Fatal("nothing found it")
		})
	}
}

// crashEverywhere runs a scenario without a crash, with one at each point, and
// with a second one at each point after the first.
func crashEverywhere(sc scenario, f flaws, twice bool) (runs int, err error) {
	try := func(crashes ...crash) (points int, err error) {
		runs++
		w := newWorld(sc, f, crashes)
		if err := w.run(); err != nil {
			return 0, fmt.Errorf("%s, crashes %+v: %w", sc.name, crashes, err)
		}
		return w.points, nil
	}
	points, err := try()
	if err != nil {
		return runs, err
	}
	for p := 1; p <= points; p++ {
		for how := range ways {
			first := crash{p, how}
			after, err := try(first)
			if err != nil {
				return runs, err
			}
			if !twice {
				continue
			}
			for q := 1; q <= after; q++ {
				for how := range ways {
					if _, err := try(first, crash{q, how}); err != nil {
						return runs, err
					}
				}
			}
		}
	}
	return runs, nil
}
