package objects

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"moult/simlayer/host"
	"moult/store/bundle"
)

// situation is how what runs stands to what is wanted.
type situation int

const (
	asWanted situation = iota // calls go by what is wanted, and nothing else runs
	due                       // something else is wanted, and no change is under way
	making                    // a change is under way, and calls do not go by it yet
	ending                    // calls go by the change; what it left over has not ended
	failed                    // the last try changed nothing; there is another, later
)

func (s situation) String() string {
	return [...]string{"as wanted", "due", "making", "ending", "failed"}[s]
}

// happening moves from one situation to another.
type happening int

const (
	wantOther happening = iota // than what is in force
	wantSame                   // as is in force
	begun
	followed
	refused
	ended
)

// next has every move that there is.
var next = map[situation]map[happening]situation{
	asWanted: {wantOther: due, wantSame: asWanted},
	due:      {wantOther: due, wantSame: asWanted, begun: making, refused: failed},
	making:   {wantOther: making, wantSame: making, followed: ending, refused: failed},
	ending:   {wantOther: ending, wantSame: ending, ended: asWanted},
	failed:   {wantOther: due, wantSame: asWanted, begun: making, refused: failed},
}

// change is what is to run in processes, and how far that has been reached. It does
// nothing itself.
type change struct {
	at situation

	wanted  host.Objects // and since when with that software
	since   time.Time
	inForce host.Objects // what calls go by
	making  host.Objects // what is being made, while a change is under way

	err      error         // why the last try failed; nil once one succeeds, or something else is wanted
	pause    time.Duration // before the next try
	retry    time.Time     // when that is
	revision int           // counts the changes of what callers can be led to
}

func (c *change) move(h happening) {
	to, ok := next[c.at][h]
	if !ok {
		panic(fmt.Sprintf("objects: happening %d while %v", h, c.at))
	}
	c.at = to
}

// want says what is to run.
func (c *change) want(set host.Objects, now time.Time) {
	if sameObjects(set, c.wanted) {
		return
	}
	if !sameNode(set, c.wanted) {
		c.since = now
	}
	c.wanted, c.err, c.pause, c.retry = set, nil, 0, time.Time{}
	c.compare()
}

// compare moves on by what is wanted.
func (c *change) compare() {
	if !sameObjects(c.wanted, c.inForce) {
		c.move(wantOther)
		return
	}
	c.move(wantSame)
	if c.at == asWanted {
		c.inForce = c.wanted // of nothing it may be for another node
	}
}

// mayBegin reports whether a change may begin.
func (c *change) mayBegin(now time.Time) bool {
	return c.at == due || c.at == failed && !now.Before(c.retry)
}

// begin begins to make what is wanted, and returns it.
func (c *change) begin() host.Objects {
	c.move(begun)
	c.making = c.wanted
	return c.making
}

// follow notes that calls go by the change.
func (c *change) follow() {
	c.move(followed)
	c.inForce, c.err = c.making, nil
	c.revision++
}

// end notes that what the change left over has ended.
func (c *change) end() {
	c.move(ended)
	c.revision++
	c.compare()
}

// refuse notes why nothing could be changed. It may be something else by now that is
// wanted.
func (c *change) refuse(err error, now time.Time) {
	other := c.at == making && !sameObjects(c.making, c.wanted)
	c.move(refused)
	c.revision++
	if other {
		c.compare()
		return
	}
	c.err, c.pause = err, min(max(2*c.pause, minPause), maxPause)
	c.retry = now.Add(c.pause)
}

// underWay reports whether a change is under way.
func (c *change) underWay() bool { return c.at == making || c.at == ending }

// behind reports whether the objects do not go by the present software yet: until
// they do no call is let in, so that none finds nobody, or what was there before.
// open says that calls are let in now; then those that first objects would answer
// are no reason to hold others. Nor are calls held for longer than hold, which is
// when they would be refused: the software's own version is then served alone.
func (c *change) behind(open bool, now time.Time) bool {
	there := sameNode(c.wanted, c.inForce) && (c.at != making || sameNode(c.wanted, c.making))
	if there || len(c.wanted.List) == 0 || c.err != nil || now.Sub(c.since) > c.wanted.Hold {
		return false
	}
	return !open || len(c.inForce.List) > 0
}

// answers reports whether the object for callers of v, and all between it and the
// node, are in force as they are wanted. While a change is made, calls may go by it
// already, or not yet: it must leave them as they are.
func (c *change) answers(v bundle.Version) bool {
	return c.has(c.inForce, v) && (c.at != making || c.has(c.making, v))
}

// has reports whether a set has the object for callers of v, and all between it and
// the node, as they are wanted.
func (c *change) has(set host.Objects, v bundle.Version) bool {
	if !sameNode(c.wanted, set) {
		return false
	}
	for v != c.wanted.Native {
		want, asked := objectFor(v, c.wanted)
		have, there := objectFor(v, set)
		if !asked || !there || !reflect.DeepEqual(want, have) {
			return false
		}
		v = want.To
	}
	return true
}

// errDue says that a change waits until callers are led elsewhere.
var errDue = errors.New("callers still use simulation objects that are about to end")

// obstacle says why no change is under way though one is wanted; nil where none is.
func (c *change) obstacle() error {
	switch c.at {
	case due:
		return errDue
	case failed:
		return c.err
	}
	return nil
}

func sameObjects(a, b host.Objects) bool {
	if len(a.List) == 0 && len(b.List) == 0 {
		return true // of nothing
	}
	return sameNode(a, b) && a.Hold == b.Hold && slices.EqualFunc(a.List, b.List, func(a, b host.Object) bool { return reflect.DeepEqual(a, b) })
}

func sameNode(a, b host.Objects) bool { return a.Native == b.Native && maps.Equal(a.Node, b.Node) }

func objectFor(v bundle.Version, set host.Objects) (host.Object, bool) {
	i := slices.IndexFunc(set.List, func(o host.Object) bool { return o.Version == v })
	if i < 0 {
		return host.Object{}, false
	}
	return set.List[i], true
}
