package schedule

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"moult/gossip/view"
	"moult/store/bundle"
)

// Classes of refusal, for errors.Is.
var (
	// ErrTooNew is an order of a format that this moult does not know yet.
	ErrTooNew = errors.New("rollout order needs a newer moult")
	// ErrMalformed is bytes that are not an order in canonical JSON.
	ErrMalformed = errors.New("malformed rollout order")
	// ErrInvalid is an order whose fields contradict each other or exceed a bound.
	ErrInvalid = errors.New("invalid rollout order")
	// ErrNotSuccessor is an order that may not follow the one it was compared with.
	ErrNotSuccessor = errors.New("not a successor of the rollout order")
	// ErrRefused is a change that the order does not allow, or that changes nothing.
	ErrRefused = errors.New("refused")
)

// Formats of an order. An order is written in the lowest that can say it.
const (
	// FormatVersion is the first format.
	FormatVersion = 1
	// FormatWithdrawn added releases that are withdrawn.
	FormatWithdrawn = 2
	// FormatJoined added orders that join two.
	FormatJoined = 3
	// FormatWindows added windows, classes that settle first, and places that wait for neither.
	FormatWindows = 4
	// FormatFacts added conditions over facts.
	FormatFacts = 5

	// FormatWaves, of the same moult, added waves beside a canary, and a bound within each
	// value of a label.
	FormatWaves = FormatFacts

	// FormatTurns, of the same moult, added orders that take their release back, and go
	// forward again, or say that it will not be taken back.
	FormatTurns = FormatFacts
	// FormatFinalizeAfter added releases that are finalized by their own word, and classes whose
	// rollout must get on.
	FormatFinalizeAfter = 6
	// FormatAgents added orders that replace agents.
	FormatAgents = 7

	// NewestFormat is the newest that this code reads.
	NewestFormat = FormatAgents
)

// States of an order.
const (
	StateRunning = "running"
	StatePaused  = "paused"  // nobody goes down until it is resumed
	StateAborted = "aborted" // nobody goes down under it any more
)

// Order is a rollout order: the operator's signed word on how one release is
// rolled out. It is a value that nobody changes: the operator's changes
// (Pause, Skip, …) return a successor with the next serial.
type Order struct {
	Format int `json:"format"`
	// Release is the release that is rolled out, Manifest its manifest.
	Release  bundle.Version `json:"release"`
	Manifest bundle.Digest  `json:"manifest"`
	// Serial is 1 for the first order of a release, one more for each change.
	Serial uint64 `json:"serial"`
	// Previous is the release of the newest earlier order; 0 where this
	// cluster's operator never signed one.
	Previous bundle.Version `json:"previous,omitempty"`
	State    string         `json:"state"`
	// Turn counts how often the rollout has changed its direction: each odd turn takes the
	// release back, each even one goes forward. PreviousTurn is that of the order before,
	// which is its last.
	Turn         int `json:"turn,omitempty"`
	PreviousTurn int `json:"previous_turn,omitempty"`
	// Finalized is the operator's word that the release will not be taken back: no turn
	// follows.
	Finalized bool `json:"finalized,omitempty"`
	// FinalizeAfter has each node finalize the release by itself, once all have been settled and
	// well for so long ([MayFinalize]); 0: none does.
	FinalizeAfter bundle.Duration `json:"finalize_after,omitempty"`
	// Classes holds every class with nodes, also those that the release does
	// not change: their nodes may still be on the way from an earlier one.
	Classes map[bundle.Class]ClassOrder `json:"classes"`
	// Forgotten are nodes whose records are dropped, those forgotten first before the
	// others. Each order has what the one before had.
	Forgotten []Forgotten `json:"forgotten,omitempty"`
	// Withdrawn is what the operator has withdrawn, for good: each order has what the one
	// before had. The order of a release that is withdrawn is aborted.
	Withdrawn bundle.Withdrawn `json:"withdrawn,omitempty"`
	// Agents is the operator's word that agents may be replaced; nil: they stay.
	Agents *AgentsOrder `json:"agents,omitempty"`
	// Joined names orders that contradict each other, and whose place it takes.
	Joined *Joined `json:"joined,omitempty"`
}

// lowestFormat returns the lowest format that can say what o says.
func (o *Order) lowestFormat() int {
	if o.Agents != nil {
		return FormatAgents
	}
	if o.FinalizeAfter != 0 {
		return FormatFinalizeAfter
	}
	if o.Turn > 0 || o.PreviousTurn > 0 || o.Finalized {
		return FormatTurns
	}
	for _, c := range o.Classes {
		if c.ProgressDeadline != 0 {
			return FormatFinalizeAfter
		}
	}
	for _, c := range o.Classes {
		if c.When != "" || c.HoldIf != "" {
			return FormatFacts
		}
		if len(c.Waves) > 0 || c.Spread != nil || c.Rate > 0 {
			return FormatWaves
		}
	}
	for _, c := range o.Classes {
		if len(c.Windows) > 0 || len(c.After) > 0 || len(c.Now) > 0 {
			return FormatWindows
		}
	}
	if o.Joined != nil {
		return FormatJoined
	}
	if len(o.Withdrawn) > 0 {
		return FormatWithdrawn
	}
	return FormatVersion
}

// Forgotten is the operator's word that nothing is to be known of a node any more of
// what it has said up to a record of this number. What it says after that counts.
type Forgotten struct {
	Node bundle.NodeID `json:"node"`
	UpTo uint64        `json:"up_to"`
}

// ClassOrder is the part of an order for one class.
type ClassOrder struct {
	// Strategy is one of bundle.StrategyRolling, StrategyAtOnce, StrategyManual,
	// StrategyRandom.
	Strategy string `json:"strategy"`
	// MaxUnavailable is the budget k: so many nodes may be down at once.
	MaxUnavailable int `json:"max_unavailable"`
	// Canary is how many of the first places go before the others, which wait
	// until these have been settled for Soak.
	Canary int             `json:"canary,omitempty"`
	Soak   bundle.Duration `json:"soak,omitempty"`
	// FailureMax failed nodes stop the rollout of the class; 0: it never stops
	// by itself.
	FailureMax int `json:"failure_max,omitempty"`
	// ProgressDeadline is after how long without another settled node that counts as one that
	// has failed, by each agent's own clock (see Input.Idle); 0: never.
	ProgressDeadline bundle.Duration `json:"progress_deadline,omitempty"`
	// Roster lists the nodes in the order in which they may go down. The j-th
	// place of a node is for its j-th attempt, not counting skipped places.
	Roster []bundle.NodeID `json:"roster,omitempty"`
	// Skipped lists indexes into Roster, sorted: the operator's word that the
	// node is gone. Of each node, the skipped places come before the others.
	Skipped []int `json:"skipped,omitempty"`
	// Started lists indexes into Roster, for StrategyManual: the places that
	// the operator has allowed to go, in that order, which is also their rank.
	Started []int `json:"started,omitempty"`
	// Windows are when nodes may go down, none for always; After are classes whose nodes
	// settle first, sorted.
	Windows []bundle.Window `json:"windows,omitempty"`
	After   []bundle.Class  `json:"after,omitempty"`
	// When and HoldIf are conditions (package expr): nobody goes down unless the former is
	// true, nor while the latter is; "" for none.
	When   string `json:"when,omitempty"`
	HoldIf string `json:"hold_if,omitempty"`
	// Now lists indexes into Roster, sorted: places that wait neither for a window, nor for
	// other classes, nor for conditions, by the operator's word.
	Now []int `json:"now,omitempty"`
	// Waves are what Canary alone cannot say. Spread, if not nil, bounds how many of each
	// zone, or the like, may be down at once.
	Waves  []Wave  `json:"waves,omitempty"`
	Spread *Spread `json:"spread,omitempty"`
	// Rate is how many nodes go in an hour, about, under bundle.StrategyRandom.
	Rate int `json:"rate,omitempty"`
}

// MarshalOrder validates o and returns its canonical JSON, which the
// operator's TUF metadata names by hash.
func MarshalOrder(o *Order) ([]byte, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	data, err := encode(o)
	if err != nil {
		return nil, err
	}
	if len(data) > MaxOrderBytes {
		return nil, fmt.Errorf("%w of release %d: %d bytes, the most is %d", ErrInvalid, o.Release, len(data), MaxOrderBytes)
	}
	return data, nil
}

// ParseOrder reads canonical JSON from an untrusted source. What it returns is
// valid, and MarshalOrder would write the same bytes again. Errors are
// ErrTooNew, ErrMalformed or ErrInvalid.
func ParseOrder(data []byte) (*Order, error) {
	return bundle.Form[Order]{
		MaxBytes: MaxOrderBytes, Newest: NewestFormat, Marshal: MarshalOrder,
		TooNew: ErrTooNew, Malformed: ErrMalformed, NotCanonical: ErrMalformed,
	}.Parse(data)
}

func encode(o *Order) ([]byte, error) {
	norm := *o
	if norm.Classes == nil {
		norm.Classes = map[bundle.Class]ClassOrder{}
	}
	data, err := json.Marshal(norm)
	if err != nil {
		return nil, fmt.Errorf("encode the rollout order of release %d: %w", o.Release, err)
	}
	return data, nil
}

// Validate reports every problem of o, up to a bound. The error is ErrInvalid
// for errors.Is.
func (o *Order) Validate() error {
	var problems []error
	fail := func(bad bool, field, format string, args ...any) {
		if bad && len(problems) < maxProblems {
			problems = append(problems, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
		}
	}
	lowest := o.lowestFormat()
	fail(o.Format != lowest, "format", "%d, want %d, the lowest that can say what the order says", o.Format, lowest)
	fail(o.Release < 1 || o.Release > bundle.MaxVersion, "release", "%d, want 1 to %d", o.Release, bundle.MaxVersion)
	fail(o.Serial < 1 || o.Serial > MaxSerial, "serial", "%d, want 1 to %d", o.Serial, uint64(MaxSerial))
	fail(o.Manifest.IsZero(), "manifest", "none: it must name the release's manifest by digest")
	fail(o.Previous >= o.Release, "previous", "%d, want a release before %d, or 0", o.Previous, o.Release)
	fail(!slices.Contains([]string{StateRunning, StatePaused, StateAborted}, o.State), "state", "%.40q, want %s, %s or %s", o.State, StateRunning, StatePaused, StateAborted)
	fail(o.Turn < 0 || o.Turn > view.MaxTurns, "turn", "%d, want 0 to %d", o.Turn, view.MaxTurns)
	fail(o.PreviousTurn < 0 || o.PreviousTurn > view.MaxTurns || o.PreviousTurn > 0 && o.Previous == 0, "previous_turn", "%d, want 0 to %d, and 0 without an order before", o.PreviousTurn, view.MaxTurns)
	fail(o.FinalizeAfter < 0 || o.FinalizeAfter > bundle.MaxFinalizeAfter, "finalize_after", "%s, want 0 to %s", o.FinalizeAfter, bundle.MaxFinalizeAfter)
	fail(o.Finalized && o.Back(), "finalized", "set, and turn %d takes the release back", o.Turn)
	forgotten := map[bundle.NodeID]bool{}
	for i, f := range o.Forgotten {
		fail(forgotten[f.Node], fmt.Sprintf("forgotten[%d]", i), "node %s is there before", f.Node.Short())
		fail(f.UpTo < 1 || f.UpTo > MaxNumber, fmt.Sprintf("forgotten[%d]", i), "up to number %d, want 1 to %d", f.UpTo, uint64(MaxNumber))
		forgotten[f.Node] = true
	}
	fail(len(o.Forgotten) > MaxForgotten, "forgotten", "%d nodes, the most is %d", len(o.Forgotten), MaxForgotten)
	if err := o.Withdrawn.Validate(); err != nil {
		fail(true, "withdrawn", "%v", err)
	}
	for _, w := range o.Withdrawn {
		fail(o.State != StateAborted && w.First <= o.Release && o.Release <= w.Last, "withdrawn", "release %d itself, for class %s, while its rollout is %s", o.Release, w.Class, o.State)
	}
	o.Joined.validate(o.State, fail)
	o.Agents.validate(o, fail)
	fail(len(o.Classes) > MaxClasses, "classes", "%d of them, the most is %d", len(o.Classes), MaxClasses)
	for _, name := range slices.Sorted(maps.Keys(o.Classes)) {
		field := fmt.Sprintf("classes.%.40s", name)
		fail(!bundle.ValidName(string(name)), field, "%.40q is no name for a class", name)
		c := o.Classes[name]
		c.validate(func(bad bool, f, format string, args ...any) { fail(bad, field+"."+f, format, args...) })
	}
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("%w of release %d, serial %d: %w", ErrInvalid, o.Release, o.Serial, errors.Join(problems...))
}

func (c *ClassOrder) validate(fail func(bad bool, field, format string, args ...any)) {
	switch c.Strategy {
	case bundle.StrategyRolling, bundle.StrategyAtOnce, bundle.StrategyManual, bundle.StrategyRandom:
	default:
		fail(true, "strategy", "%.40q, want %s, %s, %s or %s", c.Strategy, bundle.StrategyRolling, bundle.StrategyAtOnce, bundle.StrategyManual, bundle.StrategyRandom)
	}
	random := c.Strategy == bundle.StrategyRandom
	fail(random != (c.Rate > 0) || c.Rate < 0 || c.Rate > bundle.MaxRate, "rate", "%d nodes in an hour, want 1 to %d under strategy %s alone", c.Rate, bundle.MaxRate, bundle.StrategyRandom)
	fail(c.MaxUnavailable < 1 || c.MaxUnavailable > MaxRoster, "max_unavailable", "%d, want 1 to %d", c.MaxUnavailable, MaxRoster)
	fail(c.Canary < 0 || c.Canary > bundle.MaxCanary, "canary", "%d, want 0 to %d", c.Canary, bundle.MaxCanary)
	fail(c.Soak < 0 || c.Soak > bundle.MaxSoak, "soak", "%s, want 0 to %s", c.Soak, bundle.MaxSoak)
	fail(c.FailureMax < 0 || c.FailureMax > bundle.MaxFailures, "failure_max", "%d, want 0 to %d", c.FailureMax, bundle.MaxFailures)
	fail(c.ProgressDeadline < 0 || c.ProgressDeadline > bundle.MaxProgress, "progress_deadline", "%s, want 0 to %s", c.ProgressDeadline, bundle.MaxProgress)
	fail(len(c.Roster) > MaxRoster, "roster", "%d places, the most is %d", len(c.Roster), MaxRoster)
	c.validateSkipped(fail)
	c.validateStarted(fail)
	c.validateWaits(fail)
	c.validateWaves(fail)
	c.validateSpread(fail)
}

func (c *ClassOrder) validateWaits(fail func(bad bool, field, format string, args ...any)) {
	fail(len(c.Windows) > bundle.MaxWindows, "windows", "%d of them, the most is %d", len(c.Windows), bundle.MaxWindows)
	for i, w := range c.Windows {
		w.Problems(func(bad bool, field, format string, args ...any) {
			fail(bad, fmt.Sprintf("windows[%d].%s", i, field), format, args...)
		})
	}
	fail(len(c.After) > MaxClasses, "after", "%d classes, the most is %d", len(c.After), MaxClasses)
	for i, class := range c.After {
		fail(!bundle.ValidName(string(class)) || i > 0 && c.After[i-1] >= class, "after", "%.40q, want the names of classes, each once, sorted", class)
	}
	fail(!bundle.ValidExpression(c.When), "when", "%d bytes, want text of at most %d", len(c.When), bundle.MaxExpressionBytes)
	fail(!bundle.ValidExpression(c.HoldIf), "hold_if", "%d bytes, want text of at most %d", len(c.HoldIf), bundle.MaxExpressionBytes)
	fail(!risingIndexes(c.Now, len(c.Roster)), "now", "want rising indexes into the roster's %d places", len(c.Roster))
}

// validateSkipped checks that of each node the skipped places come first, on
// which the numbering of attempts rests (see the package doc).
func (c *ClassOrder) validateSkipped(fail func(bad bool, field, format string, args ...any)) {
	if !risingIndexes(c.Skipped, len(c.Roster)) {
		fail(true, "skipped", "want rising indexes into the roster's %d places", len(c.Roster))
		return
	}
	skipped := c.isSkipped()
	open := map[bundle.NodeID]bool{}
	for i, id := range c.Roster {
		if skipped[i] {
			fail(open[id], "skipped", "place %d of node %s, but not its earlier one", i, id.Short())
			continue
		}
		open[id] = true
	}
}

func (c *ClassOrder) validateStarted(fail func(bad bool, field, format string, args ...any)) {
	fail(len(c.Started) > 0 && c.Strategy != bundle.StrategyManual, "started", "set, but the strategy is %s", c.Strategy)
	last := map[bundle.NodeID]int{}
	for _, i := range c.Started {
		if i < 0 || i >= len(c.Roster) {
			fail(true, "started", "%d, which is no index into the roster's %d places", i, len(c.Roster))
			return
		}
		id := c.Roster[i]
		before, again := last[id]
		fail(again && before >= i, "started", "place %d of node %s after its place %d", i, id.Short(), before)
		last[id] = i
	}
}

func risingIndexes(list []int, n int) bool {
	for j, i := range list {
		if i < 0 || i >= n || (j > 0 && list[j-1] >= i) {
			return false
		}
	}
	return true
}

func (c *ClassOrder) isSkipped() []bool {
	skipped := make([]bool, len(c.Roster))
	for _, i := range c.Skipped {
		skipped[i] = true
	}
	return skipped
}

// Successor reports why next may not take the place of old, an order of the
// same release; nil if it may. Rosters only grow, a skip stays, and a node
// that is skipped is skipped at every place that it had. The relation is
// transitive, so serials may be missing between the two. The error is
// ErrNotSuccessor for errors.Is.
func Successor(old, next *Order) error {
	bad := notSuccessor(old, next)
	if err := succeeds(old, next); err != nil {
		return err
	}
	if text := agentsSuccessor(old.Agents, next.Agents, next.Joined != nil); text != "" {
		return bad("%s", text)
	}
	if next.Turn > old.Turn {
		if old.Finalized && next.Joined == nil { // else it was not, in one of the halves
			return bad("the release is finalized: no turn follows")
		}
		return turnSuccessor(old, next)
	}
	for _, name := range slices.Sorted(maps.Keys(old.Classes)) {
		was, is := old.Classes[name], next.Classes[name]
		if len(is.Roster) < len(was.Roster) || !slices.Equal(is.Roster[:len(was.Roster)], was.Roster) {
			return bad("class %s: a roster only grows at its end", name)
		}
		if len(is.Started) < len(was.Started) || !slices.Equal(is.Started[:len(was.Started)], was.Started) {
			return bad("class %s: the list of started places only grows at its end", name)
		}
		if (is.Strategy == bundle.StrategyManual) != (was.Strategy == bundle.StrategyManual) {
			return bad("class %s: strategy %s after %s: they rank differently", name, is.Strategy, was.Strategy)
		}
		if text := badSpread(was.Spread, is.Spread); text != "" {
			return bad("class %s: %s", name, text)
		}
		if id, ok := badSkip(was, is); !ok {
			return bad("class %s: node %s: a skip covers every place that the node has, for good", name, id.Short())
		}
	}
	return nil
}

func notSuccessor(old, next *Order) func(format string, args ...any) error {
	return func(format string, args ...any) error {
		return fmt.Errorf("%w: serial %d after serial %d of release %d: %s", ErrNotSuccessor, next.Serial, old.Serial, old.Release, fmt.Sprintf(format, args...))
	}
}

// succeeds is what Successor asks beside the classes.
func succeeds(old, next *Order) error {
	bad := notSuccessor(old, next)
	switch {
	case next.Release != old.Release || next.Manifest != old.Manifest || next.Previous != old.Previous || next.PreviousTurn != old.PreviousTurn:
		return bad("it is for release %d (%s) after %d, want %d (%s) after %d", next.Release, next.Manifest.Short(), next.Previous, old.Release, old.Manifest.Short(), old.Previous)
	case next.FinalizeAfter != old.FinalizeAfter:
		return bad("finalize_after is %s after %s: it stays as the release says", next.FinalizeAfter, old.FinalizeAfter)
	case next.Serial <= old.Serial:
		return bad("serials must rise")
	case next.Turn < old.Turn:
		return bad("turns only rise")
	case old.Finalized && !next.Finalized:
		return bad("that the release is finalized is for good")
	case old.State == StateAborted && next.Turn == old.Turn && next.State != StateAborted:
		return bad("it is %s, but the rollout was aborted for good", next.State)
	}
	upTo := map[bundle.NodeID]uint64{}
	for _, f := range next.Forgotten {
		upTo[f.Node] = f.UpTo
	}
	for _, f := range old.Forgotten {
		if n, ok := upTo[f.Node]; ok && n < f.UpTo {
			return bad("node %s is forgotten up to number %d after %d", f.Node.Short(), n, f.UpTo)
		}
	}
	if w, lacks := next.Withdrawn.Lacks(old.Withdrawn); lacks {
		return bad("class %s: that releases %d to %d are withdrawn is for good", w.Class, w.First, w.Last)
	}
	if old.Joined != nil {
		if next.Joined == nil || slices.ContainsFunc(old.Joined.Orders, func(d bundle.Digest) bool { return !next.Joins(d) }) {
			return bad("it does not say which orders were joined")
		}
	}
	return nil
}

// badSkip finds a node of which is has skipped some of the places that it had
// in was, beyond those skipped there, but not all; or one whose skip was taken
// back.
func badSkip(was, is ClassOrder) (bundle.NodeID, bool) {
	before, after := was.isSkipped(), is.isSkipped()
	newly := map[bundle.NodeID]bool{}
	for i, id := range was.Roster {
		if before[i] && !after[i] {
			return id, false
		}
		if after[i] && !before[i] {
			newly[id] = true
		}
	}
	for i, id := range was.Roster {
		if newly[id] && !after[i] {
			return id, false
		}
	}
	return bundle.NodeID{}, true
}

// Follows reports why next may not be the first order after previous, an order
// of an earlier release; nil if it may. previous may be nil. Every node that
// may still be down under previous must be in next's rosters, where next's
// nodes wait for it. The error is ErrNotSuccessor for errors.Is.
func Follows(previous, next *Order) error {
	if previous == nil {
		if next.Previous != 0 {
			return fmt.Errorf("%w: that of release %d says that it comes after that of release %d, which is not known here", ErrNotSuccessor, next.Release, next.Previous)
		}
		return nil
	}
	if next.Previous != previous.Release {
		return fmt.Errorf("%w: that of release %d says that it comes after that of release %d, want %d", ErrNotSuccessor, next.Release, next.Previous, previous.Release)
	}
	if next.PreviousTurn < previous.Turn { // of two halves, one may be of a later turn
		return fmt.Errorf("%w: that of release %d says that it comes after turn %d of that of release %d, want at least %d", ErrNotSuccessor, next.Release, next.PreviousTurn, previous.Release, previous.Turn)
	}
	if w, lacks := next.Withdrawn.Lacks(previous.Withdrawn); lacks {
		return fmt.Errorf("%w: that of release %d does not say that releases %d to %d are withdrawn for class %s, as that of release %d does", ErrNotSuccessor, next.Release, w.First, w.Last, w.Class, previous.Release)
	}
	for _, name := range slices.Sorted(maps.Keys(previous.Classes)) {
		was, is := previous.Classes[name], next.Classes[name]
		skipped, in := was.isSkipped(), map[bundle.NodeID]bool{}
		for _, id := range is.Roster {
			in[id] = true
		}
		for i, id := range was.Roster {
			if !skipped[i] && !in[id] {
				return fmt.Errorf("%w: that of release %d leaves out node %s of class %s, which may be down under that of release %d", ErrNotSuccessor, next.Release, id.Short(), name, previous.Release)
			}
		}
	}
	return nil
}
