package sim

import (
	"flag"
	"os"
	"reflect"
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
		for _, name := range lacking(sum.Stats) {
			t.Errorf("no %s in all runs", name)
		}
	}
	t.Logf("%d steps, %+v", sum.Steps, sum.Stats)
}

// lacking are the counts of what has never happened: a simulation in which nothing goes
// wrong proves nothing.
func lacking(s Stats) (names []string) {
	for field, n := range reflect.ValueOf(s).Fields() {
		if n.Int() == 0 {
			names = append(names, field.Name)
		}
	}
	return names
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

// add sums up what happened: every count there is, so that a new one is not forgotten.
func (r *Result) add(o Result) {
	r.Steps += o.Steps
	r.Elapsed += o.Elapsed
	sum := reflect.ValueOf(&r.Stats).Elem()
	for field, n := range reflect.ValueOf(o.Stats).Fields() {
		at := sum.FieldByIndex(field.Index)
		at.SetInt(at.Int() + n.Int())
	}
}

// TestAdd: no count is left out of a sum, and none is 0 unseen.
func TestAdd(t *testing.T) {
	var sum Result
	one := Result{Steps: 1, Elapsed: time.Second}
	counts := reflect.ValueOf(&one.Stats).Elem()
	for i := range counts.NumField() {
		var rest Stats
		reflect.ValueOf(&rest).Elem().Field(i).SetInt(1)
		if got := lacking(rest); len(got) != counts.NumField()-1 {
			t.Errorf("where only %s has happened, lacking are %v", counts.Type().Field(i).Name, got)
		}
		counts.Field(i).SetInt(int64(i + 1))
	}
	sum.add(one)
	sum.add(one)
	for i := range counts.NumField() {
		if n := reflect.ValueOf(sum.Stats).Field(i).Int(); n != 2*int64(i+1) {
			t.Errorf("%s comes to %d, want %d", counts.Type().Field(i).Name, n, 2*(i+1))
		}
	}
	if sum.Steps != 2 || sum.Elapsed != 2*time.Second || len(lacking(sum.Stats)) > 0 {
		t.Errorf("the sum is %+v", sum)
	}
}
