package membership

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"moult/gossip/view"
	"moult/store/bundle"
)

// Classes of refusal, for errors.Is.
var (
	// ErrTooNew is a document of a format that this moult does not know yet.
	ErrTooNew = errors.New("the membership needs a newer moult")
	// ErrMalformed is bytes that are not a membership in canonical JSON.
	ErrMalformed = errors.New("malformed membership")
	// ErrInvalid is a membership whose fields contradict each other or exceed a bound.
	ErrInvalid = errors.New("invalid membership")
)

// format is the one that this code writes, and the newest that it reads.
const format = 1

// Membership is who belongs to a cluster. It is a value that nobody changes: Enrol, Evict
// and the like return another.
type Membership struct {
	Format  int             `json:"format"`
	Members []Member        `json:"members,omitempty"`
	Out     []bundle.NodeID `json:"evicted,omitempty"` // those that are evicted
	Tokens  []Token         `json:"tokens,omitempty"`
}

// Member is a node that the operator has enrolled.
type Member struct {
	Node bundle.NodeID `json:"node"`
	// Name is for people: what the node was called when it was enrolled.
	Name  string       `json:"name"`
	Class bundle.Class `json:"class"`
	// Hosts are those of the node's public addresses; none: any.
	Hosts []string `json:"hosts,omitempty"`
}

// Token is a join token in force, by its public key.
type Token struct {
	Key ed25519.PublicKey `json:"key"`
	// Class is that of the nodes that it enrols; "" for any.
	Class bundle.Class `json:"class,omitempty"`
}

// Marshal validates m and returns its canonical JSON.
func (m *Membership) Marshal() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(m)
	if err == nil && len(data) > MaxBytes {
		err = fmt.Errorf("%w: %d bytes, the most is %d", ErrInvalid, len(data), MaxBytes)
	}
	return data, err
}

// Parse reads canonical JSON from an untrusted source. What it returns is valid, and
// Marshal would write the same bytes again. Errors are ErrTooNew, ErrMalformed or
// ErrInvalid.
func Parse(data []byte) (*Membership, error) {
	return bundle.Form[Membership]{
		MaxBytes: MaxBytes, Newest: format, Marshal: (*Membership).Marshal,
		TooNew: ErrTooNew, Malformed: ErrMalformed, NotCanonical: ErrMalformed,
	}.Parse(data)
}

// Validate reports every problem of m, up to a bound. The error is ErrInvalid for
// errors.Is.
func (m *Membership) Validate() error {
	var problems []error
	fail := func(bad bool, text string, args ...any) {
		if bad && len(problems) < maxProblems {
			problems = append(problems, fmt.Errorf(text, args...))
		}
	}
	fail(m.Format != format, "format: %d, want %d", m.Format, format)
	fail(len(m.Members) > MaxMembers, "members: %d of them, the most is %d", len(m.Members), MaxMembers)
	fail(len(m.Out) > MaxEvicted, "evicted: %d nodes, the most is %d", len(m.Out), MaxEvicted)
	fail(len(m.Tokens) > MaxTokens, "tokens: %d of them, the most is %d: revoke one", len(m.Tokens), MaxTokens)
	fail(!rising(m.Members, func(a, b Member) int { return compareID(a.Node, b.Node) }), "members: they do not rise by node")
	fail(!rising(m.Out, compareID), "evicted: they do not rise by node")
	fail(!rising(m.Tokens, func(a, b Token) int { return bytes.Compare(a.Key, b.Key) }), "tokens: they do not rise by key")
	for _, e := range m.Members {
		short := e.Node.Short()
		fail(m.Evicted(e.Node), "node %s: enrolled and evicted", short)
		fail(len(e.Name) > view.MaxNameBytes || !printable(e.Name), "node %s: its name %.40q", short, e.Name)
		fail(!bundle.ValidName(string(e.Class)), "node %s: %.40q is no name for a class", short, e.Class)
		fail(len(e.Hosts) > MaxHosts || !rising(e.Hosts, strings.Compare), "node %s: want at most %d hosts, in rising order", short, MaxHosts)
		for _, h := range e.Hosts {
			fail(!IsHost(h), "node %s: its host %.80q", short, h)
		}
	}
	for _, t := range m.Tokens {
		fail(len(t.Key) != ed25519.PublicKeySize, "token: a key of %d bytes, want %d", len(t.Key), ed25519.PublicKeySize)
		fail(t.Class != "" && !bundle.ValidName(string(t.Class)), "token %s: %.40q is no name for a class", t.ID(), t.Class)
	}
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrInvalid, errors.Join(problems...))
}

// IsHost reports whether a text may be the host of a public address.
func IsHost(h string) bool { return h != "" && len(h) <= view.MaxAddrBytes && printable(h) }

// printable reports that a text cannot disturb a terminal.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsGraphic(r) || r == ' ' })
}

func compareID(a, b bundle.NodeID) int { return bytes.Compare(a[:], b[:]) }

func rising[T any](list []T, compare func(a, b T) int) bool {
	for i := 1; i < len(list); i++ {
		if compare(list[i-1], list[i]) >= 0 {
			return false
		}
	}
	return true
}

// Member returns what is enrolled by name of a node.
func (m *Membership) Member(id bundle.NodeID) (Member, bool) {
	if m == nil {
		return Member{}, false
	}
	i, ok := slices.BinarySearchFunc(m.Members, id, func(e Member, id bundle.NodeID) int { return compareID(e.Node, id) })
	if !ok {
		return Member{}, false
	}
	return m.Members[i], true
}

// Evicted reports whether a node is evicted.
func (m *Membership) Evicted(id bundle.NodeID) bool {
	if m == nil {
		return false
	}
	_, out := slices.BinarySearchFunc(m.Out, id, compareID)
	return out
}

// Counts reports whether the node that signed a record belongs to the cluster: with the
// class that it says, by name or by a token in force. It verifies a signature where a
// token has enrolled the node.
func (m *Membership) Counts(r view.Record) bool {
	if m == nil {
		return true
	}
	if m.Evicted(r.Node) {
		return false
	}
	if e, ok := m.Member(r.Node); ok {
		return e.Class == r.Class
	}
	return m.tokenOf(r) != nil
}

// MayHave reports whether a node may have its public address at a host. Who was enrolled
// by a token speaks for itself there.
func (m *Membership) MayHave(id bundle.NodeID, host string) bool {
	e, ok := m.Member(id)
	return !ok || len(e.Hosts) == 0 || slices.Contains(e.Hosts, host)
}

// Names reports whether the operator has enrolled a node by name, at hosts that it tells.
func (m *Membership) Names(id bundle.NodeID) bool {
	e, ok := m.Member(id)
	return ok && len(e.Hosts) > 0
}

// Enrol returns m with these members, in the place of what it says of the same nodes.
func (m *Membership) Enrol(members ...Member) *Membership {
	next := m.clone()
	for _, e := range members {
		e.Hosts = slices.Compact(slices.Sorted(slices.Values(e.Hosts)))
		next.Members = put(next.Members, e, func(a, b Member) int { return compareID(a.Node, b.Node) })
		next.Out = slices.DeleteFunc(next.Out, func(id bundle.NodeID) bool { return id == e.Node })
	}
	return next
}

// Evict returns m without a node. No token enrols it any more; only its name does.
func (m *Membership) Evict(id bundle.NodeID) *Membership {
	next := m.clone()
	next.Members = slices.DeleteFunc(next.Members, func(e Member) bool { return e.Node == id })
	next.Out = put(next.Out, id, compareID)
	return next
}

// Drop returns m without what it says of a node that it enrols by name; m itself where it
// does not.
func (m *Membership) Drop(id bundle.NodeID) *Membership {
	if _, ok := m.Member(id); !ok {
		return m
	}
	next := m.clone()
	next.Members = slices.DeleteFunc(next.Members, func(e Member) bool { return e.Node == id })
	return next
}

// clone copies m as far as a change may reach; of nil it makes one that enrols nobody.
func (m *Membership) clone() *Membership {
	if m == nil {
		return &Membership{Format: format}
	}
	return &Membership{m.Format, slices.Clone(m.Members), slices.Clone(m.Out), slices.Clone(m.Tokens)}
}

// put puts e in its place in a rising list, instead of an equal one.
func put[T any](list []T, e T, compare func(a, b T) int) []T {
	i, ok := slices.BinarySearchFunc(list, e, compare)
	if ok {
		list[i] = e
		return list
	}
	return slices.Insert(list, i, e)
}
