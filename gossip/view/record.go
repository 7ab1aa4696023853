package view

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"moult/store/bundle"
)

// Record is what one node says of itself. Its maps and slices may be shared
// with a View: do not change them.
//
// What others decide by (Version, Obeys, Ended, Turned, Final, Agent.Done) a node makes durable before it
// signs it, and never takes back: none of them ever goes down.
type Record struct {
	// Node is the digest of Key.
	Node bundle.NodeID     `json:"node"`
	Key  ed25519.PublicKey `json:"key"`
	Name string            `json:"name"`
	// Class is the node's one class.
	Class bundle.Class `json:"class"`
	// Seq rises by at least one with every record that the node signs.
	Seq uint64 `json:"seq"`
	// Addr is where the node's agent gossips, host:port.
	Addr string `json:"addr,omitempty"`

	// Version is the settled version, 0 before the first. Target is what the
	// node works towards, 0 for nothing.
	Version bundle.Version `json:"version,omitempty"`
	Target  bundle.Version `json:"target,omitempty"`
	// Running is the release whose software is live; 0 for none, or where an older
	// moult does not say. A node that is held may run what it has not settled at.
	Running bundle.Version `json:"running,omitempty"`
	// Phase is where the node is on its way to a release. Unknown words are not errors.
	Phase Phase `json:"phase"`
	// Progress is how much of the phase is done, 0 to 1.
	Progress float64 `json:"progress,omitempty"`
	// Reason says why the node waits or is held, for people.
	Reason string `json:"reason,omitempty"`
	// Since is when the phase began, by the node's own clock, in UTC.
	Since time.Time `json:"since,omitzero"`

	// Obeys is a promise: the node never again goes down under the rollout
	// order of an earlier release. It is made only while the node is up.
	Obeys bundle.Version `json:"obeys,omitempty"`
	// Ended counts attempts that are over and did not settle.
	Ended Ended `json:"ended,omitzero"`
	// Turned is how far the node is with taking a release back, and forward again; At is
	// the version that it is at where that took it below Version, else 0.
	Turned Turned         `json:"turned,omitzero"`
	At     bundle.Version `json:"at,omitempty"`
	// Final is the newest release that the node has begun to finalize by the release's own
	// word: from then it does not take it back.
	Final bundle.Version `json:"final,omitempty"`
	// Held is true while the node is held.
	Held bool `json:"held,omitempty"`
	// Health says how the node's software fares.
	Health Health `json:"health,omitzero"`
	// Rehearsed is what came of the last rehearsal; zero for none.
	Rehearsed Rehearsal `json:"rehearsed,omitzero"`
	// Agent is which program the node's agent is; zero where an older moult does not say.
	Agent AgentBuild `json:"agent,omitzero"`
	// Facts are numbers that the node's software has told of itself, by name.
	Facts map[string]Fact `json:"facts,omitempty"`

	Services map[string]ServiceAddr `json:"services,omitempty"`
	Labels   map[string]string      `json:"labels,omitempty"`
	Platform bundle.Platform        `json:"platform,omitzero"`
	Trust    Heads                  `json:"trust,omitzero"`
	// Alarms are what an operator should look at, for people.
	Alarms []string `json:"alarms,omitempty"`
	// Left is true when the node has left the ring on purpose.
	Left bool `json:"left,omitempty"`
	// Joined is the rollout order in force here that has joined two, and that nobody has
	// resumed yet: the node is up, or goes down by nothing else. Zero for none.
	Joined bundle.Digest `json:"joined,omitzero"`
	// Reads is the newest of ReadsMembers, … that the node's agent understands; 0: an older moult.
	Reads int `json:"reads,omitempty"`
	// Enrolment shows that a join token has enrolled the node; zero for none.
	Enrolment Enrolment `json:"enrolment,omitzero"`
}

// Enrolment is a signature by the key of a join token (package membership).
type Enrolment struct {
	Token     ed25519.PublicKey `json:"token"`
	Signature []byte            `json:"signature"`
}

// IsZero reports that there is none.
func (e Enrolment) IsZero() bool { return len(e.Token) == 0 && len(e.Signature) == 0 }

// Ended says that Count attempts at Release have ended without settling: the
// node is up again, and the next attempt is the one after them. Release rises;
// Count rises as long as Release is the same.
type Ended struct {
	Release bundle.Version `json:"release"`
	Count   int            `json:"count"`
}

// Turned says how far a node is with the turns of a release's order: each odd one takes the
// release back, each even one goes forward to it again. It only ever rises: Release and
// Turn in that order of significance, and the rest as long as these are the same.
type Turned struct {
	// Turn is a promise: the node never again goes down under an earlier turn, nor under
	// the order of an earlier release. It is made only while the node is up.
	Release bundle.Version `json:"release"`
	Turn    int            `json:"turn"`
	// Done is true once the node is up where the turn leads; Ended counts attempts that
	// are over and did not lead there.
	Done  bool `json:"done,omitempty"`
	Ended int  `json:"ended,omitempty"`
}

// Before reports whether t is of an earlier turn than the one of a release.
func (t Turned) Before(release bundle.Version, turn int) bool {
	return t.Release < release || t.Release == release && t.Turn < turn
}

// Max returns what both say.
func (t Turned) Max(u Turned) Turned {
	switch {
	case t.Before(u.Release, u.Turn):
		return u
	case !u.Before(t.Release, t.Turn):
		t.Done, t.Ended = t.Done || u.Done, max(t.Ended, u.Ended)
	}
	return t
}

// SaysAs reports whether two records say the same, but for number and time.
func (r *Record) SaysAs(o *Record) bool {
	return r.Node == o.Node && bytes.Equal(r.Key, o.Key) && r.Name == o.Name && r.Class == o.Class && r.Addr == o.Addr &&
		r.Version == o.Version && r.Target == o.Target && r.Running == o.Running && r.Phase == o.Phase && r.Progress == o.Progress && r.Reason == o.Reason &&
		r.Obeys == o.Obeys && r.Ended == o.Ended && r.Turned == o.Turned && r.At == o.At && r.Final == o.Final && r.Held == o.Held &&
		r.Health == o.Health && r.Rehearsed == o.Rehearsed && r.Agent == o.Agent && maps.Equal(r.Facts, o.Facts) &&
		maps.EqualFunc(r.Services, o.Services, ServiceAddr.Equal) && maps.Equal(r.Labels, o.Labels) && r.Platform == o.Platform && r.Trust == o.Trust &&
		slices.Equal(r.Alarms, o.Alarms) && r.Left == o.Left && r.Joined == o.Joined && r.Reads == o.Reads &&
		bytes.Equal(r.Enrolment.Token, o.Enrolment.Token) && bytes.Equal(r.Enrolment.Signature, o.Enrolment.Signature)
}

// Equal reports whether both say the same.
func (s ServiceAddr) Equal(o ServiceAddr) bool {
	return s.Public == o.Public && maps.Equal(s.Versions, o.Versions) && s.Native == o.Native && s.Attach == o.Attach && s.Egress == o.Egress && s.Protocol == o.Protocol
}

// Numbers are the facts of a record that are known; nil for none.
func (r Record) Numbers() map[string]float64 {
	var all map[string]float64
	for _, name := range slices.Sorted(maps.Keys(r.Facts)) {
		if x, ok := r.Facts[name].Known(); ok {
			if all == nil {
				all = map[string]float64{}
			}
			all[name] = x
		}
	}
	return all
}

// Stands is the version that the node is at, or the one before, where it lets callers in to
// that, and has not settled there.
func (r Record) Stands() bundle.Version {
	if t := r.Turned; r.At == 0 && t.Release == r.Version && t.Turn%2 == 1 && 0 < r.Running && r.Running < r.Version {
		return r.Version - 1
	}
	return cmp.Or(r.At, r.Version)
}

// Health says how the software of a node fares. The zero Health is that of a node
// without software, or of one that an older moult looks after: nothing is known.
type Health struct {
	// State is one of the words below; other words say nothing. Reason says what is
	// wrong, for people.
	State  HealthState `json:"state,omitempty"`
	Reason string      `json:"reason,omitempty"`
	// Soaked is the release in whose soak the software was well to the end.
	Soaked bundle.Version `json:"soaked,omitempty"`
	// Failed says that it was not, in the soak of Release, which the node had reached
	// when the rollout order had Count places for it.
	Failed Ended `json:"failed,omitzero"`
}

// What an agent understands, each with all before it.
const (
	ReadsMembers    = 1 // who belongs to the cluster
	ReadsJoined     = 2 // orders that join others: it says what it has Joined
	ReadsRehearsals = 3 // releases that are rehearsed: it says what came of it, in Rehearsed
	ReadsTurns      = 4 // orders that take a release back: it says how far it is, in Turned
)

// AgentBuild says which program an agent is, and how far it is with the one of a release.
type AgentBuild struct {
	// Program is the beginning of the digest of the program that runs, in hex, for people.
	Program string `json:"program,omitempty"`
	// Done is the newest release whose agent the node needs no more: it has run it well, or
	// the release has none for its platform. It never goes down.
	Done bundle.Version `json:"done,omitempty"`
	// Trying is the release whose agent is being put in place, or on trial; Failed the one
	// whose agent was put back, until it is tried again. 0 for none.
	Trying bundle.Version `json:"trying,omitempty"`
	Failed bundle.Version `json:"failed,omitempty"`
}

// Rehearsal is what came of running a release on a copy of the node's own state.
type Rehearsal struct {
	Release bundle.Version `json:"release"`
	// Outcome is one of the words below; other words say nothing.
	Outcome Outcome `json:"outcome"`
	// Reason says why, or what a rehearsal that went well was without, for people.
	Reason string `json:"reason,omitempty"`
	// Took is how long all of it took, and Down how long what a node is down for: the
	// transforms, and until the software was well. 0 where it is not known.
	Took bundle.Duration `json:"took,omitempty"`
	Down bundle.Duration `json:"down,omitempty"`
}

// Fact is a number that a node publishes of itself, or why there is none.
type Fact struct {
	Value float64 `json:"value"`
	// State is one of the words below, or another that says that there is no Value; "" is
	// that there is. Reason says more, for people.
	State  FactState `json:"state,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

// Known returns the number; false where there is none.
func (f Fact) Known() (float64, bool) { return f.Value, f.State == "" }

// FactState is a word for why a fact has no number.
type FactState string

// The states of facts without a number.
const (
	FactNoAnswer  FactState = "no answer"
	FactNotNumber FactState = "not a number"
)

// Outcome is a word for what came of a rehearsal.
type Outcome string

// The outcomes of a rehearsal.
const (
	RehearsalOK      Outcome = "ok"
	RehearsalFailed  Outcome = "failed"
	RehearsalSkipped Outcome = "skipped" // there was none to be made
	RehearsalUnable  Outcome = "unable"  // it could not be made, which says nothing against the release
)

// HealthState is a word for how software fares.
type HealthState string

// The states of software.
const (
	HealthUnknown    HealthState = "unknown" // it is not known yet, or it is down on purpose
	HealthWell       HealthState = "well"    // it runs, and its checks pass
	HealthNotReady   HealthState = "not ready"
	HealthRestarting HealthState = "restarting" // it has ended by itself, not long ago
	HealthFailing    HealthState = "failing"    // it runs, and its checks fail
)

// Unwell reports that something is known to be wrong: unknown health counts as well.
func (h Health) Unwell() bool {
	return h.State == HealthNotReady || h.State == HealthRestarting || h.State == HealthFailing
}

// ServiceAddr says where one service of a node is reached.
type ServiceAddr struct {
	// Public is the one address that people configure.
	Public string `json:"public"`
	// Versions holds an address for each version that can be answered; that of
	// Native is the node's own socket.
	Versions map[bundle.Version]string `json:"versions,omitempty"`
	Native   bundle.Version            `json:"native,omitempty"`
	// Attach and Egress name the ways in use; Protocol is the service's.
	Attach   string `json:"attach,omitempty"`
	Egress   string `json:"egress,omitempty"`
	Protocol string `json:"protocol,omitempty"`
}

// Heads says how new the trust metadata is that a node holds.
type Heads struct {
	Root      int64          `json:"root"`
	Timestamp int64          `json:"timestamp"`
	Head      bundle.Version `json:"head"`
}

var (
	namePattern     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]*$`)
	wordPattern     = regexp.MustCompile(`^[a-z][a-z0-9 -]*$`)
	platformPattern = regexp.MustCompile(`^[a-z0-9]{1,16}$`)
)

// Validate reports what is wrong with r, up to a bound. The error is
// ErrInvalid for errors.Is.
func (r Record) Validate() error {
	var c checker
	c.fail(len(r.Key) != ed25519.PublicKeySize, "key", "%d bytes, want %d", len(r.Key), ed25519.PublicKeySize)
	c.fail(r.Node != bundle.NodeIDOf(r.Key), "node", "%s, which is not the digest of the key", r.Node.Short())
	c.fail(len(r.Name) > MaxNameBytes || !namePattern.MatchString(r.Name), "name", "%.40q, want 1 to %d letters, digits, dots and dashes", r.Name, MaxNameBytes)
	c.fail(!bundle.ValidName(string(r.Class)), "class", "%.40q is no name for a class", r.Class)
	c.fail(r.Seq < 1 || r.Seq > MaxSeq, "seq", "%d, want 1 to %d", r.Seq, uint64(MaxSeq))
	c.addr("addr", r.Addr)
	c.version("version", r.Version)
	c.version("target", r.Target)
	c.version("running", r.Running)
	c.version("obeys", r.Obeys)
	c.fail(r.Final > r.Version, "final", "%d, want at most the version, %d", r.Final, r.Version)
	c.ended("ended", r.Ended)
	c.version("at", r.At)
	c.version("turned.release", r.Turned.Release)
	c.fail(r.Turned.Turn < 0 || r.Turned.Turn > MaxTurns || (r.Turned.Turn == 0) != (r.Turned.Release == 0), "turned.turn", "%d of release %d, want 1 to %d", r.Turned.Turn, r.Turned.Release, MaxTurns)
	c.fail(r.Turned.Ended < 0 || r.Turned.Ended > MaxAttempts, "turned.ended", "%d, want 0 to %d", r.Turned.Ended, MaxAttempts)
	c.word("phase", string(r.Phase))
	if r.Health.State != "" {
		c.word("health.state", string(r.Health.State))
	}
	c.text("health.reason", r.Health.Reason, MaxReasonBytes)
	c.version("health.soaked", r.Health.Soaked)
	c.ended("health.failed", r.Health.Failed)
	c.rehearsal(r.Rehearsed)
	c.fail(len(r.Agent.Program) > MaxProgramBytes || strings.ContainsFunc(r.Agent.Program, func(r rune) bool { return !strings.ContainsRune("0123456789abcdef", r) }), "agent.program", "%.40q, want at most %d hexadecimal digits", r.Agent.Program, MaxProgramBytes)
	c.version("agent.done", r.Agent.Done)
	c.version("agent.trying", r.Agent.Trying)
	c.version("agent.failed", r.Agent.Failed)
	c.fail(!(r.Progress >= 0 && r.Progress <= 1), "progress", "%v, want 0 to 1", r.Progress)
	c.text("reason", r.Reason, MaxReasonBytes)
	c.fail(r.Since.Location() != time.UTC || r.Since.Year() > 9999, "since", "%v, want a time in UTC before the year 10000", r.Since)
	c.services(r.Services)
	c.labels(r.Labels)
	c.facts(r.Facts)
	if r.Platform != (bundle.Platform{}) {
		c.fail(!platformPattern.MatchString(r.Platform.OS) || !platformPattern.MatchString(r.Platform.Arch), "platform", "%.40q", r.Platform)
	}
	c.fail(r.Reads < 0 || r.Reads > maxReads, "reads", "%d, want 0 to %d", r.Reads, maxReads)
	c.fail(r.Trust.Root < 0 || r.Trust.Timestamp < 0, "trust", "root %d, timestamp %d: want no negative numbers", r.Trust.Root, r.Trust.Timestamp)
	c.version("trust.head", r.Trust.Head)
	c.fail(len(r.Alarms) > MaxAlarms, "alarms", "%d of them, the most is %d", len(r.Alarms), MaxAlarms)
	for _, a := range r.Alarms[:min(len(r.Alarms), MaxAlarms)] {
		c.text("alarms", a, MaxAlarmBytes)
	}
	if e := r.Enrolment; !e.IsZero() {
		c.fail(len(e.Token) != ed25519.PublicKeySize || len(e.Signature) != ed25519.SignatureSize, "enrolment", "a key of %d bytes and a signature of %d", len(e.Token), len(e.Signature))
	}
	return c.error()
}

// checker collects problems, each with its field as in the JSON.
type checker struct{ problems []error }

func (c *checker) error() error {
	if len(c.problems) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrInvalid, errors.Join(c.problems...))
}

func (c *checker) fail(bad bool, field, format string, args ...any) {
	if bad && len(c.problems) < maxProblems {
		c.problems = append(c.problems, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
}

func (c *checker) version(field string, v bundle.Version) {
	c.fail(v > bundle.MaxVersion, field, "%d, want at most %d", v, bundle.MaxVersion)
}

func (c *checker) ended(field string, e Ended) {
	c.version(field+".release", e.Release)
	c.fail(e.Count < 0 || e.Count > MaxAttempts, field+".count", "%d, want 0 to %d", e.Count, MaxAttempts)
	c.fail((e.Count == 0) != (e.Release == 0), field, "%d attempts at release %d", e.Count, e.Release)
}

func (c *checker) rehearsal(r Rehearsal) {
	if r == (Rehearsal{}) {
		return
	}
	c.version("rehearsed.release", r.Release)
	c.word("rehearsed.outcome", string(r.Outcome))
	c.text("rehearsed.reason", r.Reason, MaxReasonBytes)
	c.fail(r.Down < 0 || r.Took < r.Down, "rehearsed.took", "%s, of which a node is down %s", r.Took, r.Down)
}

// word checks a word that has a meaning, which this code need not know.
func (c *checker) word(field, s string) {
	c.fail(len(s) > MaxPhaseBytes || !wordPattern.MatchString(s), field, "%.40q, want 1 to %d lower-case letters, digits, spaces and dashes", s, MaxPhaseBytes)
}

// addr checks an address or none. It is only ever dialled or shown, so what
// matters is that it is short and cannot disturb a terminal.
func (c *checker) addr(field, s string) {
	c.fail(len(s) > MaxAddrBytes || strings.ContainsFunc(s, notInAddr), field, "%.80q, want host:port of at most %d bytes", s, MaxAddrBytes)
}

func notInAddr(r rune) bool { return r <= ' ' || r > '~' }

func (c *checker) text(field, s string, most int) {
	c.fail(len(s) > most || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl), field, "%d bytes, want at most %d without control characters", len(s), most)
}

func (c *checker) services(services map[string]ServiceAddr) {
	c.fail(len(services) > MaxServices, "services", "%d of them, the most is %d", len(services), MaxServices)
	for _, name := range slices.Sorted(maps.Keys(services)) {
		s, field := services[name], fmt.Sprintf("services.%.40s", name)
		c.fail(!bundle.ValidName(name), field, "%.40q is no name for a service", name)
		c.addr(field+".public", s.Public)
		c.fail(len(s.Versions) > MaxVersions, field+".versions", "%d of them, the most is %d", len(s.Versions), MaxVersions)
		for _, v := range slices.Sorted(maps.Keys(s.Versions)) {
			c.version(field+".versions", v)
			c.addr(field+".versions", s.Versions[v])
		}
		c.version(field+".native", s.Native)
		for _, word := range []string{s.Attach, s.Egress, s.Protocol} {
			if word != "" {
				c.word(field, word)
			}
		}
	}
}

func (c *checker) labels(labels map[string]string) {
	c.fail(len(labels) > MaxLabels, "labels", "%d of them, the most is %d", len(labels), MaxLabels)
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		c.fail(k == "", "labels", "a label without a name")
		c.text("labels", k, MaxLabelBytes)
		c.text("labels", labels[k], MaxLabelBytes)
	}
}

func (c *checker) facts(facts map[string]Fact) {
	c.fail(len(facts) > bundle.MaxFacts, "facts", "%d of them, the most is %d", len(facts), bundle.MaxFacts)
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		f, field := facts[name], fmt.Sprintf("facts.%.40s", name)
		c.fail(!bundle.ValidFact(name), field, "%.40q is no name for a fact", name)
		c.fail(math.IsNaN(f.Value) || math.IsInf(f.Value, 0) || f.State != "" && f.Value != 0, field+".value", "%v, want a number, and 0 where it is not known", f.Value)
		if f.State != "" {
			c.word(field+".state", string(f.State))
		}
		c.text(field+".reason", f.Reason, MaxFactBytes)
	}
}

// Tidy returns the fact as Sign takes it, with its reason on one line.
func (f Fact) Tidy() Fact {
	f.Reason = OneLine(f.Reason, MaxFactBytes)
	return f
}

// OneLine returns text for people as one line of at most most bytes. A node must
// be able to publish its record whatever its software printed last.
func OneLine(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) <= most {
		return s
	}
	const more = "…"
	cut := most - len(more)
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + more
}
