package membership

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moult/gossip/view"
	"moult/store/bundle"
)

func node(b byte) bundle.NodeID { return bundle.NodeID{b} }

func record(b byte, class bundle.Class) view.Record { return view.Record{Node: node(b), Class: class} }

func testSecret(b byte) Secret {
	return Secret{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))}
}

// sample has one of each.
func sample() *Membership {
	var none *Membership
	return none.Enrol(
		Member{Node: node(2), Name: "n2", Class: "kv"},
		Member{Node: node(1), Name: "n1", Class: "kv", Hosts: []string{"b.example", "10.0.0.1", "b.example"}},
	).Evict(node(9)).Allow(testSecret(1).Token("kv"))
}

func TestNilMembershipCountsEverybody(t *testing.T) {
	var none *Membership
	if !none.Counts(record(7, "kv")) || !none.MayHave(node(7), "anywhere") || none.Names(node(7)) || none.Evicted(node(7)) {
		t.Error("without a word of the operator's somebody does not count")
	}
}

func TestCounts(t *testing.T) {
	m := sample()
	enrolled := func(b byte, class bundle.Class, by Secret) view.Record {
		r := record(b, class)
		r.Enrolment = by.Enrol(r.Node, class)
		return r
	}
	stolen := enrolled(4, "kv", testSecret(1))
	stolen.Node = node(5)
	otherClass := enrolled(4, "kv", testSecret(1))
	otherClass.Class = "db"
	cut := enrolled(4, "kv", testSecret(1))
	cut.Enrolment.Signature = cut.Enrolment.Signature[:10]
	for name, c := range map[string]struct {
		record view.Record
		counts bool
	}{
		"by name":                           {record(1, "kv"), true},
		"by name, of another class":         {record(1, "db"), false},
		"a stranger":                        {record(3, "kv"), false},
		"by a token":                        {enrolled(4, "kv", testSecret(1)), true},
		"by a token that is not in force":   {enrolled(4, "kv", testSecret(2)), false},
		"by a token of another class":       {enrolled(4, "db", testSecret(1)), false},
		"by another node's enrolment":       {stolen, false},
		"by an enrolment for another class": {otherClass, false},
		"by half a signature":               {cut, false},
		"evicted":                           {record(9, "kv"), false},
		"evicted, with a token":             {enrolled(9, "kv", testSecret(1)), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := m.Counts(c.record); got != c.counts {
				t.Errorf("counts: %v, want %v", got, c.counts)
			}
		})
	}
	if again := m.Enrol(Member{Node: node(9), Name: "n9", Class: "kv"}); !again.Counts(record(9, "kv")) || !m.Evicted(node(9)) {
		t.Error("who was evicted and is enrolled again does not count, or the document before has changed")
	}
}

func TestHosts(t *testing.T) {
	m := sample()
	for _, c := range []struct {
		node byte
		host string
		may  bool
	}{{1, "10.0.0.1", true}, {1, "b.example", true}, {1, "10.0.0.2", false}, {2, "10.0.0.2", true}, {4, "10.0.0.2", true}} {
		if got := m.MayHave(node(c.node), c.host); got != c.may {
			t.Errorf("node %d at %s: %v", c.node, c.host, got)
		}
	}
	if !m.Names(node(1)) || m.Names(node(2)) || m.Names(node(4)) {
		t.Error("only the first is enrolled at hosts that are told")
	}
}

func TestRevoke(t *testing.T) {
	m := sample()
	r := record(4, "kv")
	r.Enrolment = testSecret(1).Enrol(r.Node, r.Class)
	known := []view.Record{record(1, "kv"), r, record(3, "kv")}
	id := testSecret(1).Token("").ID()
	next, lost, err := m.Revoke(id, known)
	if err != nil || len(lost) != 1 || lost[0].Node != r.Node || next.Counts(r) || !m.Counts(r) {
		t.Fatalf("lost %v, %v", lost, err)
	}
	if _, _, err := next.Revoke(id, known); err == nil {
		t.Error("a token was revoked twice")
	}
	if _, _, err := m.Revoke("", known); err == nil {
		t.Error("no token was named, and one was revoked")
	}
	if m.Drop(node(3)) != m || m.Drop(node(1)).Counts(record(1, "kv")) {
		t.Error("a node was not dropped, or another was")
	}
}

func TestSecret(t *testing.T) {
	s := testSecret(3)
	got, err := ParseSecret(" " + s.String() + "\n")
	if err != nil || got.String() != s.String() {
		t.Fatal(err)
	}
	other, err := NewSecret()
	if err != nil || other.String() == s.String() {
		t.Fatal("two tokens are one", err)
	}
	for _, bad := range []string{"", "moult-join-", s.String()[1:], s.String() + "A", s.String() + " x", strings.Replace(s.String(), "moult-join-", "", 1)} {
		if _, err := ParseSecret(bad); err == nil {
			t.Errorf("%q is a token", bad)
		}
	}
}

// TestVectors: the bytes of format 1 stay what they are.
func TestVectors(t *testing.T) {
	want, err := os.ReadFile(filepath.Join("testdata", "v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := sample().Marshal()
	if err != nil || !bytes.Equal(got, bytes.TrimSpace(want)) {
		t.Fatalf("%s, %v", got, err)
	}
	m, err := Parse(got)
	if err != nil || !m.Counts(record(2, "kv")) {
		t.Fatal(err)
	}
}

func TestParseRefuses(t *testing.T) {
	good, err := sample().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	id := func(b byte) string { return node(b).String() }
	many := &Membership{Format: format}
	for i := range MaxTokens + 1 {
		many = many.Allow(testSecret(byte(i)).Token(""))
	}
	if _, err := many.Marshal(); !errors.Is(err, ErrInvalid) {
		t.Errorf("too many tokens: %v", err)
	}
	for name, c := range map[string]struct {
		data string
		want error
	}{
		"nothing":               {``, ErrMalformed},
		"no object":             {`[]`, ErrMalformed},
		"a newer format":        {`{"format":2,"quorum":3}`, ErrTooNew},
		"no format":             {`{}`, ErrInvalid},
		"an unknown field":      {`{"format":1,"guests":[]}`, ErrMalformed},
		"more after its end":    {string(good) + `{}`, ErrMalformed},
		"a space":               {strings.Replace(string(good), `,`, `, `, 1), ErrMalformed},
		"a field twice":         {strings.Replace(string(good), `"format":1,`, `"format":1,"format":1,`, 1), ErrMalformed},
		"members out of order":  {fmt.Sprintf(`{"format":1,"members":[{"node":"%s","name":"a","class":"kv"},{"node":"%s","name":"b","class":"kv"}]}`, id(2), id(1)), ErrInvalid},
		"a member twice":        {fmt.Sprintf(`{"format":1,"members":[{"node":"%s","name":"a","class":"kv"},{"node":"%s","name":"b","class":"kv"}]}`, id(1), id(1)), ErrInvalid},
		"enrolled and evicted":  {fmt.Sprintf(`{"format":1,"members":[{"node":"%s","name":"a","class":"kv"}],"evicted":["%s"]}`, id(1), id(1)), ErrInvalid},
		"no class":              {fmt.Sprintf(`{"format":1,"members":[{"node":"%s","name":"a","class":""}]}`, id(1)), ErrInvalid},
		"a name with an escape": {fmt.Sprintf(`{"format":1,"members":[{"node":"%s","name":"\u001b[2J","class":"kv"}]}`, id(1)), ErrInvalid},
		"hosts out of order":    {fmt.Sprintf(`{"format":1,"members":[{"node":"%s","name":"a","class":"kv","hosts":["b","a"]}]}`, id(1)), ErrInvalid},
		"an empty host":         {fmt.Sprintf(`{"format":1,"members":[{"node":"%s","name":"a","class":"kv","hosts":[""]}]}`, id(1)), ErrInvalid},
		"a short key":           {`{"format":1,"tokens":[{"key":"AAAA"}]}`, ErrInvalid},
		"no key":                {`{"format":1,"tokens":[{"key":null}]}`, ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(c.data)); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	if _, err := Parse(make([]byte, MaxBytes+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("too long: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	good, err := sample().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data)
		if err != nil {
			return
		}
		again, err := m.Marshal()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("what was read is written otherwise: %q, %v", again, err)
		}
	})
}
