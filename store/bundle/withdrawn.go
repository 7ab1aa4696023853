package bundle

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Withdrawal is the operator's word that nothing that releases First to Last do to a class
// is ever done: they have settled nowhere in it, and the next release that changes the
// class takes it from the version before First.
type Withdrawal struct {
	Class Class   `json:"class"`
	First Version `json:"first"`
	Last  Version `json:"last"`
}

// Withdrawn is all that was withdrawn, sorted by class, then by release; no two overlap.
type Withdrawn []Withdrawal

// Has reports whether what release v does to a class is withdrawn.
func (w Withdrawn) Has(class Class, v Version) bool {
	_, ok := w.Of(class, v)
	return ok
}

// Of returns the withdrawal that has release v.
func (w Withdrawn) Of(class Class, v Version) (Withdrawal, bool) {
	for _, x := range w {
		if x.Class == class && x.First <= v && v <= x.Last {
			return x, true
		}
	}
	return Withdrawal{}, false
}

// From returns the version that release n is to take a class from: n-1, or where the
// newest releases before it that change the class are withdrawn, the one before them.
// changes tells whether a release does, and whether it is known here: one that is
// withdrawn, and that nobody has handed in, is taken for a change.
func (w Withdrawn) From(class Class, n Version, changes func(Version) (changes, known bool)) Version {
	from := n - 1
	for v := n - 1; v > 0; v-- {
		does, known := changes(v)
		switch {
		case known && !does:
		case !w.Has(class, v):
			return from
		default:
			from = v - 1
		}
	}
	return from
}

// With returns w with one more. Those that it overlaps become one with it.
func (w Withdrawn) With(x Withdrawal) Withdrawn {
	var next Withdrawn
	for _, y := range w {
		if y.Class == x.Class && y.First <= x.Last && x.First <= y.Last {
			x.First, x.Last = min(x.First, y.First), max(x.Last, y.Last)
			continue
		}
		next = append(next, y)
	}
	next = append(next, x)
	slices.SortFunc(next, Withdrawal.compare)
	return next
}

func (x Withdrawal) compare(y Withdrawal) int {
	return cmp.Or(cmp.Compare(x.Class, y.Class), cmp.Compare(x.First, y.First))
}

// Lacks returns a withdrawal of old that w does not cover: none is ever taken back.
func (w Withdrawn) Lacks(old Withdrawn) (Withdrawal, bool) {
	for _, x := range old {
		if y, ok := w.Of(x.Class, x.First); !ok || y.Last < x.Last {
			return x, true
		}
	}
	return Withdrawal{}, false
}

// Validate reports a list that With could not have made.
func (w Withdrawn) Validate() error {
	if len(w) > MaxWithdrawn {
		return fmt.Errorf("%d of them, the most is %d", len(w), MaxWithdrawn)
	}
	var problems []error
	for i, x := range w {
		switch {
		case !ValidName(string(x.Class)):
			problems = append(problems, fmt.Errorf("%.40q is no name for a class", x.Class))
		case x.First < 1 || x.First > x.Last || x.Last > MaxVersion:
			problems = append(problems, fmt.Errorf("releases %d to %d, want rising ones, 1 to %d", x.First, x.Last, MaxVersion))
		case i > 0 && (x.compare(w[i-1]) < 0 || w[i-1].Class == x.Class && w[i-1].Last >= x.First):
			problems = append(problems, fmt.Errorf("releases %d to %d of class %s: not after those before", x.First, x.Last, x.Class))
		}
		if len(problems) >= maxProblems {
			break
		}
	}
	return errors.Join(problems...)
}
