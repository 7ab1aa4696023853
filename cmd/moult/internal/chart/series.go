package chart

import (
	"slices"
	"time"

	"moult/agent/fleet"
)

// Series is the course of a rollout, bounded. Its zero value has nothing yet.
type Series struct {
	span  time.Duration
	spans []span
	noted int
}

// point is a sample with its place among all, since many have one time.
type point struct {
	fleet.Sample
	place int
}

// span is what is kept of a stretch of time: the first of the points with the fewest down,
// the first with the most, and the last.
type span struct {
	number          int64 // it begins at number × the length of a span
	low, high, last point
}

// Note adds a point, which is no earlier than those before.
func (s *Series) Note(p fleet.Sample) {
	if s.span == 0 {
		s.span = firstSpan
	}
	number := int64(p.At / s.span)
	for number >= maxSpans {
		s.widen()
		number = int64(p.At / s.span)
	}
	s.noted++
	at := point{p, s.noted}
	s.add(span{number: number, low: at, high: at, last: at})
}

// add puts a span behind the others, or into the last where that is the same.
func (s *Series) add(next span) {
	if len(s.spans) == 0 || s.spans[len(s.spans)-1].number != next.number {
		s.spans = append(s.spans, next)
		return
	}
	to := &s.spans[len(s.spans)-1]
	if next.low.Down < to.low.Down {
		to.low = next.low
	}
	if next.high.Down > to.high.Down {
		to.high = next.high
	}
	to.last = next.last
}

// widen makes spans twice as long.
func (s *Series) widen() {
	old := s.spans
	s.span, s.spans = 2*s.span, make([]span, 0, maxSpans)
	for _, o := range old {
		o.number /= 2
		s.add(o)
	}
}

// points are all that are kept, as they came.
func (s *Series) points() (all []fleet.Sample) {
	for _, o := range s.spans {
		of := []point{o.low, o.high, o.last}
		slices.SortFunc(of, func(a, b point) int { return a.place - b.place })
		for _, p := range slices.Compact(of) {
			all = append(all, p.Sample)
		}
	}
	return all
}
