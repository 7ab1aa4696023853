package expr

import (
	"math"
	"slices"
	"strings"
)

// aggregates are what is known of a fact over several nodes, beside its count.
var aggregates = [...]string{"mean", "p50", "p95", "min", "max"}

// Group is one fact of several nodes: its numbers, rising. Its zero value has none.
type Group struct{ numbers []float64 }

// Add adds a node's number.
func (g *Group) Add(x float64) {
	i, _ := slices.BinarySearch(g.numbers, x)
	g.numbers = slices.Insert(g.numbers, i, x)
}

// Remove takes a number out that was added.
func (g *Group) Remove(x float64) {
	if i, ok := slices.BinarySearch(g.numbers, x); ok {
		g.numbers = slices.Delete(g.numbers, i, i+1)
	}
}

// Value returns the aggregate of a name, as a value of [Expr.Eval]; false where there is
// none of nothing.
func (g *Group) Value(aggregate string) (any, bool) {
	n := len(g.numbers)
	switch {
	case aggregate == "count":
		return int64(n), true
	case n == 0:
		return nil, false
	}
	switch aggregate {
	case "min":
		return g.numbers[0], true
	case "max":
		return g.numbers[n-1], true
	case "p50":
		return g.rank(50), true
	case "p95":
		return g.rank(95), true
	case "mean":
		return g.mean(), true
	}
	return nil, false
}

// rank is the nearest-rank percentile: the least number that so many percent are not above.
func (g *Group) rank(percent int) float64 {
	n := len(g.numbers)
	return g.numbers[max(0, (n*percent+99)/100-1)]
}

// mean is alike on every peer that knows the same numbers, since they are added in one
// sequence, and is never beyond what there is.
func (g *Group) mean() float64 {
	n := float64(len(g.numbers))
	mean := 0.0
	for _, x := range g.numbers {
		mean += x / n
	}
	return math.Min(math.Max(mean, g.numbers[0]), g.numbers[len(g.numbers)-1])
}

// Split takes the variable of an aggregate apart: settled.errors.p50 is the p50 of errors
// of the settled; ok is false for any other.
func Split(name string) (part, fact, aggregate string, ok bool) {
	words := strings.Split(name, ".")
	if len(words) != 3 || words[0] != Settled && words[0] != Others {
		return "", "", "", false
	}
	return words[0], words[1], words[2], true
}
