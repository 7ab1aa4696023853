package sim

import (
	"encoding/binary"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"moult/agent/membership"
	"moult/agent/schedule"
	"moult/agent/schedule/expr"
	"moult/agent/sim/agenda"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Config says what to run. A run is a function of its Seed and its Plant.
type Config struct {
	Seed uint64
	// Plant has the planted bug, if any.
	Plant Plant
	// Only, if not empty, names the one check that may end the run: others
	// see what a planted bug does as well.
	Only string
	// Trace, if not nil, gets a line for each event.
	Trace io.Writer
}

// Result is what came out of a run.
type Result struct {
	Seed uint64
	// Hash is that of all events and of the trace: equal for two runs of one
	// seed and plant.
	Hash uint64
	// Steps counts events, Elapsed is virtual time.
	Steps   int
	Elapsed time.Duration
	// Violation is nil where every promise held.
	Violation *Violation
	// Last holds the last lines of the trace.
	Last []string
	// Stats counts what happened, to show that a run was worth its time.
	Stats Stats
}

// Violation is a promise that was broken.
type Violation struct {
	// Check names the promise as the design does ("P4"), or is one of the checks below.
	Check string
	Text  string
	At    time.Duration
}

// CheckLiveness is the check that the cluster settles once faults have stopped,
// CheckAnswered that nobody is left unanswered who may still need it.
const (
	CheckLiveness = "liveness"
	CheckAnswered = "answered"
)

// CheckSoak and CheckUnwell are the checks that nobody goes on over canaries that have
// not been well for their soak, and over nodes that have settled and are not well.
const (
	CheckSoak   = "soak"
	CheckUnwell = "unwell"
	// CheckRehearsing is that a node that rehearses is not down: nobody waits for it as
	// for one that is.
	CheckRehearsing = "rehearsing"
	// CheckTurn is that few nodes rehearse at once, and none while the rollout is paused.
	CheckTurn = "rehearsal turn"
)

// CheckWaves is the check that nobody goes down before the waves before its own have gone
// well.
const CheckWaves = "waves"

// CheckWaits is the check that nobody goes down outside a window, or before those that
// settle first.
const CheckWaits = "waits"

func (v *Violation) Error() string { return fmt.Sprintf("%s at %v: %s", v.Check, v.At, v.Text) }

// Stats counts what happened in a run.
type Stats struct {
	Crashes, Restarts, Databases, Cuts, Lost, Corrupted  int
	Orders, WentDown, Settled, Held, RolledBack          int
	Refused, Frozen, Ailed, SoaksFailed, Left, Forgotten int
	Calls, Retired, Tails, Expired, Twice, Withdrawn     int
	Evicted, Contradicted, LeftInSoak                    int
	Rehearsed, Unfit, Unable, Interrupted                int
	Awaited, HeldBack                                    int
	Turns, TakenBack, Finalized, FinalAlone, FinalRaced  int
}

// String tells what failed, what came before it, and how to see it again.
func (r Result) String() string {
	if r.Violation == nil {
		return fmt.Sprintf("seed %d: %d steps, %v, hash %016x", r.Seed, r.Steps, r.Elapsed.Round(time.Second), r.Hash)
	}
	return fmt.Sprintf("seed %d: %v\nthe last events:\n  %s\nto replay: go test ./agent/sim -count=1 -run 'TestSeeds$' -seed %d -v",
		r.Seed, r.Violation, strings.Join(r.Last, "\n  "), r.Seed)
}

// Run runs one simulation to its end, or to the first promise broken.
func Run(cfg Config) Result {
	s := &simulation{
		rng: rand.New(rand.NewPCG(cfg.Seed, 0)), checkRNG: rand.New(rand.NewPCG(cfg.Seed, 1)),
		plant: cfg.Plant.complete(), only: cfg.Only, hash: fnv.New64a(), out: cfg.Trace,
		faulty: true, leaving: cfg.Seed%4 == 3, waiting: waiting(cfg.Seed), waving: waving(cfg.Seed), random: cfg.Seed%13 == 12, reverting: revertingIn(cfg.Seed), measuring: measuringOf(cfg.Seed), rehearsing: cfg.Seed%3 == 2, withdrawing: withdrawing{on: cfg.Seed%5 == 2}, enrolling: enrolling{on: cfg.Seed%7 == 4}, contradicting: contradicting{on: cfg.Seed%6 == 1 && cfg.Seed%5 != 2}, views: map[uint64]uint64{}, written: map[view.Signed]word{}, ids: map[bundle.NodeID]int{},
		contents: map[bundle.Digest]*bundle.Manifest{}, orders: map[bundle.Digest]*schedule.Order{}, sets: map[bundle.Digest]*set{}, members: map[bundle.Digest]*membership.Membership{},
	}
	s.populate()
	s.operate()
	s.injectFaults()
	for s.violation == nil && !s.over && s.queue.Len() > 0 {
		if s.steps++; s.steps > maxSteps {
			s.fail(CheckLiveness, "%d events and no end", s.steps)
			break
		}
		e := s.queue.Pop()
		s.now = e.At
		s.mix(uint64(e.At))
		s.mix(e.Seq)
		e.Do()
		s.checkAll()
	}
	r := Result{Seed: cfg.Seed, Hash: s.hash.Sum64(), Steps: s.steps, Elapsed: s.now, Violation: s.violation, Stats: s.stats}
	for i := range min(len(s.last), s.traced) {
		r.Last = append(r.Last, s.last[(s.traced-min(len(s.last), s.traced)+i)%len(s.last)].String())
	}
	return r
}

// simulation is the whole world. One goroutine owns it, and all chance comes
// from its seed.
type simulation struct {
	rng      *rand.Rand
	checkRNG *rand.Rand // apart, so that a check changes nothing
	plant    Plant

	now   time.Duration
	queue agenda.Agenda
	steps int
	over  bool

	hosts     []*host
	ids       map[bundle.NodeID]int // index into hosts
	manifests [maxRelease + 1]*bundle.Manifest
	operator  operator
	// What a digest is that of.
	contents    map[bundle.Digest]*bundle.Manifest
	orders      map[bundle.Digest]*schedule.Order
	sets        map[bundle.Digest]*set
	members     map[bundle.Digest]*membership.Membership
	net         network
	crashes     float64    // chance of a crash at each crash point
	faulty      bool       // faults are being injected
	leaving     bool       // in this run nodes leave, and are forgotten
	waiting     *rand.Rand // for windows, and classes that settle first; nil: there are none
	waving      *rand.Rand // for zones, and releases that go by them; nil: there are none
	measuring   measuring
	random      bool // in this run nodes go by chance
	rehearsing  bool // in this run some releases are rehearsed
	withdrawing withdrawing
	enrolling   enrolling
	reverting   reverting

	contradicting contradicting

	hash   hash.Hash64
	out    io.Writer
	last   [lastEvents]line
	traced int

	only      string
	violation *Violation
	memo      view.Memo
	compiled  expr.Memo
	views     map[uint64]uint64    // what a view was given, and what came of it
	written   map[view.Signed]word // every record that was ever signed
	stats     Stats
	twice     bundle.Version // the release that was signed twice; 0: none
	// twoTongued: a node has said two things with one number, since its disk had lost
	// that it said the first.
	twoTongued bool
}

// word names one record: that of a host with a number.
type word struct {
	host int
	seq  uint64
}

// fail notes the first broken promise.
func (s *simulation) fail(check, format string, args ...any) {
	if s.violation == nil && (s.only == "" || s.only == check) {
		s.violation = &Violation{Check: check, Text: fmt.Sprintf(format, args...), At: s.now}
	}
}

// line is one line of the trace.
type line struct {
	at   time.Duration
	who  string
	what string
}

func (l line) String() string { return fmt.Sprintf("%9.3fs %-4s %s", l.at.Seconds(), l.who, l.what) }

// mix adds a number to the hash.
func (s *simulation) mix(n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	s.hash.Write(b[:])
}

// trace adds a line to the trace and its hash.
func (s *simulation) trace(who, what string) {
	l := line{s.now, who, what}
	io.WriteString(s.hash, who)
	io.WriteString(s.hash, what)
	s.last[s.traced%len(s.last)] = l
	s.traced++
	if s.out != nil {
		fmt.Fprintln(s.out, l)
	}
}

// after does something in a while.
func (s *simulation) after(d time.Duration, do func()) { s.queue.Push(s.now+d, do) }

// between returns a duration from lo to hi.
func (s *simulation) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(s.rng.Int64N(int64(hi-lo)+1))
}

func (s *simulation) chance(p float64) bool { return p > 0 && s.rng.Float64() < p }

// pick returns one of list; list is not empty.
func pick[T any](s *simulation, list []T) T { return list[s.rng.IntN(len(list))] }
