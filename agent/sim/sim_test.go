package sim

import (
	"flag"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"
)

var (
	seeds = flag.Int("seeds", 10, "how many seeds TestSeeds runs; make sim runs more")
	seed  = flag.Int64("seed", -1, "the one seed that TestSeeds runs, with its trace")
)

// TestMain lets garbage grow: most of what a run allocates is short-lived.
func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(400)
	m.Run()
}

// TestSeeds runs many simulations of the real driver: no promise is broken. From 30 on they
// are shown to be worth something; make sim runs 2000.
func TestSeeds(t *testing.T) {
	if *seed >= 0 {
		if r := Run(Config{Seed: uint64(*seed), Trace: os.Stdout}); r.Violation != nil {
			t.Fatal(r)
		}
		return
	}
	n := *seeds
	if testing.Short() {
		n = min(n, 5)
	}
	begin := time.Now()
	var sum Result
	for r := range runAll(n, Plant{}, "") {
		if r.Violation != nil {
			t.Error(r)
		}
		sum.add(r)
	}
	took := time.Since(begin)
	t.Logf("%d seeds, %v simulated in %v: %.0f simulated seconds a second", n, sum.Elapsed.Round(time.Second), took.Round(time.Millisecond), sum.Elapsed.Seconds()/took.Seconds())
	if n >= 30 {
		checkWorth(t, sum.Stats)
	}
	t.Logf("%d steps, %+v", sum.Steps, sum.Stats)
}

// checkWorth shows that everything there is has happened: a simulation in which
// nothing goes wrong proves nothing.
func checkWorth(t *testing.T, s Stats) {
	t.Helper()
	for name, n := range map[string]int{
		"crashes": s.Crashes, "databases lost": s.Databases, "partitions": s.Cuts, "messages lost": s.Lost,
		"records mangled": s.Corrupted, "orders": s.Orders, "nodes down": s.WentDown, "nodes settled": s.Settled,
		"nodes held": s.Held, "saves refused": s.Refused, "nodes rolled back": s.RolledBack, "nodes unwell": s.Ailed, "soaks failed": s.SoaksFailed, "calls": s.Calls, "objects retired": s.Retired, "journals shortened": s.Tails, "metadata expired": s.Expired, "releases signed twice": s.Twice, "releases frozen": s.Frozen, "nodes that left": s.Left, "nodes forgotten": s.Forgotten, "releases withdrawn": s.Withdrawn, "nodes evicted": s.Evicted, "orders contradicted": s.Contradicted, "canaries that left in their soak": s.LeftInSoak, "rehearsals": s.Rehearsed, "rehearsals that failed": s.Unfit, "rehearsals that could not be made": s.Unable, "rehearsals interrupted": s.Interrupted, "waits for a condition": s.Awaited, "holds by a condition": s.HeldBack, "turns": s.Turns, "releases taken back": s.TakenBack, "releases finalized": s.Finalized, "nodes that finalized a release by its own word": s.FinalAlone, "ways back that came too late": s.FinalRaced,
	} {
		if n == 0 {
			t.Errorf("no %s in all runs", name)
		}
	}
}

// runAll yields the results of seeds 0 to n-1, in that order. Each simulation
// has one goroutine; some run beside each other.
func runAll(n int, p Plant, only string) func(yield func(Result) bool) {
	return func(yield func(Result) bool) {
		results := make([]chan Result, n)
		for i := range results {
			results[i] = make(chan Result, 1)
		}
		next, stop := make(chan int), make(chan struct{})
		var workers sync.WaitGroup
		defer workers.Wait()
		defer close(stop)
		for range runtime.GOMAXPROCS(0) {
			workers.Go(func() {
				for i := range next {
					results[i] <- Run(Config{Seed: uint64(i), Plant: p, Only: only})
				}
			})
		}
		workers.Go(func() {
			defer close(next)
			for i := range n {
				select {
				case next <- i:
				case <-stop:
					return
				}
			}
		})
		for _, c := range results {
			if !yield(<-c) {
				return
			}
		}
	}
}

// add sums up what happened.
func (r *Result) add(o Result) {
	r.Steps += o.Steps
	r.Elapsed += o.Elapsed
	a, b := &r.Stats, o.Stats
	for _, p := range []struct {
		sum *int
		n   int
	}{
		{&a.Crashes, b.Crashes}, {&a.Restarts, b.Restarts}, {&a.Databases, b.Databases}, {&a.Cuts, b.Cuts},
		{&a.Lost, b.Lost}, {&a.Corrupted, b.Corrupted}, {&a.Orders, b.Orders}, {&a.WentDown, b.WentDown},
		{&a.Settled, b.Settled}, {&a.Held, b.Held}, {&a.Refused, b.Refused}, {&a.Frozen, b.Frozen}, {&a.RolledBack, b.RolledBack}, {&a.Calls, b.Calls}, {&a.Retired, b.Retired}, {&a.Tails, b.Tails}, {&a.Expired, b.Expired}, {&a.Twice, b.Twice},
		{&a.Ailed, b.Ailed}, {&a.SoaksFailed, b.SoaksFailed}, {&a.Withdrawn, b.Withdrawn}, {&a.Left, b.Left}, {&a.Forgotten, b.Forgotten}, {&a.Evicted, b.Evicted}, {&a.Contradicted, b.Contradicted}, {&a.LeftInSoak, b.LeftInSoak}, {&a.Rehearsed, b.Rehearsed}, {&a.Unfit, b.Unfit}, {&a.Unable, b.Unable}, {&a.Interrupted, b.Interrupted}, {&a.Awaited, b.Awaited}, {&a.HeldBack, b.HeldBack}, {&a.Turns, b.Turns}, {&a.TakenBack, b.TakenBack}, {&a.Finalized, b.Finalized}, {&a.FinalAlone, b.FinalAlone}, {&a.FinalRaced, b.FinalRaced},
	} {
		*p.sum += p.n
	}
}
