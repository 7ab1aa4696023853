package node

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"moult/agent/membership"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/bundle/trust"
)

// enrol has the metadata name who belongs, and the document arrive if read.
func (r *bench) enrol(read bool, members ...membership.Member) {
	r.t.Helper()
	var none *membership.Membership
	doc := none.Enrol(members...)
	data, err := doc.Marshal()
	if err != nil {
		r.t.Fatal(err)
	}
	ref := trust.Ref{Digest: bundle.Sum(data), Length: int64(len(data))}
	m := r.Metadata()
	m.Timestamp++
	m.Digest, m.Members = bundle.Sum(append(data, byte(m.Timestamp))), trust.Members{Ref: ref, Serial: m.Members.Serial + 1}
	r.Step(r.now, MetadataVerified{Metadata: m})
	r.ready()
	var answer Event = DocumentMissing{Document{Kind: KindMembers, Chunk: bundle.Chunk(ref)}}
	if read {
		answer = MembersRead{Document{Kind: KindMembers, Chunk: bundle.Chunk(ref)}, doc}
	}
	r.Step(r.now, answer)
	r.ready()
}

func (r *bench) self() membership.Member {
	return membership.Member{Node: r.cfg.Self, Name: "n1", Class: "kv"}
}

// Who is not enrolled is no reason to take callers from outside for older ones, or to
// keep the objects for them; nor does it clash with anybody about an address.
func TestStrangersDecideNothing(t *testing.T) {
	n := newBench(t, at(2))
	n.releases(1, 2)
	n.order(2)
	n.record(n.key, func(r *view.Record) { r.Seq, r.Version = n.Number()+5, 2 })
	member := n.claim(nil, "n2", "10.0.0.2:7001", func(r *view.Record) { r.Version = 2 })
	stranger := n.claim(nil, "made-up", "10.0.0.2:666", func(r *view.Record) { r.Version = 1 })
	n.Step(n.now, Members{Alive: map[bundle.NodeID]bool{member: true, stranger: true}})
	if r := n.ready(); r.External != 1 || len(r.Watched) != 0 || !n.alarmed(public) {
		t.Fatalf("nobody is enrolled, and the made-up node counts for nothing: %+v", r)
	}
	n.enrol(false, n.self(), membership.Member{Node: member, Name: "n2", Class: "kv", Hosts: []string{"10.0.0.2"}})
	if r := n.ready(); r.External != 1 || len(n.Directory()) != 0 {
		t.Errorf("it is not known yet who belongs, and callers count as %d, calls go to %v", r.External, n.Directory())
	}
	n.enrol(true, n.self(), membership.Member{Node: member, Name: "n2", Class: "kv", Hosts: []string{"10.0.0.2"}})
	r := n.ready()
	if r.External != 2 || len(r.Watched) != 1 || n.alarmed(public) || n.Standing(view.Record{Node: stranger, Class: "kv"}) != schedule.StandingStranger {
		t.Errorf("the made-up node still counts: %+v, alarms %q", r, n.Alarms())
	}
	n.leads("the member", "10.0.0.2:7001")
	n.Step(n.now, Members{Alive: map[bundle.NodeID]bool{stranger: true}})
	n.leads("the member, which is down", "10.0.0.2:7001")
	n.Step(n.now, Called{By: map[bundle.Version]Calls{1: {}}})
	later := n.now.Add(time.Duration(bundle.DefaultRetireAfter) + time.Hour)
	doc := []membership.Member{n.self(), {Node: member, Name: "n2", Class: "kv", Hosts: []string{"10.0.0.2"}}}
	n.enrol(false, append(doc, membership.Member{Node: stranger, Name: "n9", Class: "kv"})...)
	n.Step(later, Called{By: map[bundle.Version]Calls{1: {}}})
	if r := n.ready(); r.Oldest != 1 {
		t.Errorf("the objects are given up for good before it is known who belongs now: %+v", r)
	}
	n.enrol(true, doc...)
	n.Step(later, Called{By: map[bundle.Version]Calls{1: {}}})
	n.Step(later.Add(time.Duration(bundle.DefaultRetireAfter)+time.Hour), Called{By: map[bundle.Version]Calls{1: {}}})
	if r := n.ready(); r.Oldest != 2 {
		t.Errorf("the objects for callers of version 1 are kept for the made-up node: %+v", r)
	}
}

// A member has addresses where it is enrolled, and one that is so by name goes before one
// that a token has enrolled, dead or alive.
func TestEnrolledHosts(t *testing.T) {
	n := newBench(t, at(1))
	n.apart.aware = true // that it was lost
	by, err := membership.NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := ed25519.GenerateKey(nil) // it never fails
	id := bundle.NodeIDOf(key.Public().(ed25519.PublicKey))
	tokened := n.claim(key, "new", "10.0.0.2:7002", func(r *view.Record) { r.Enrolment = by.Enrol(id, "kv") })
	named := n.claim(nil, "n2", "10.0.0.2:7001")
	elsewhere := membership.Member{Node: named, Name: "n2", Class: "kv", Hosts: []string{"10.0.0.7"}}
	here := membership.Member{Node: named, Name: "n2", Class: "kv", Hosts: []string{"10.0.0.2"}}
	n.Step(n.now, Members{Alive: map[bundle.NodeID]bool{tokened: true}})
	n.enrol(true, n.self(), elsewhere)
	n.leads("enrolled elsewhere, and by no token in force", "")
	var none *membership.Membership
	allow := func(m membership.Member) {
		doc := none.Enrol(n.self(), m).Allow(by.Token("kv"))
		n.belonging = belonging{members: doc}
		n.sortMembers()
	}
	allow(elsewhere)
	n.leads("by a token", "10.0.0.2:7002")
	allow(here)
	n.leads("by name", "10.0.0.2:7001")
}

// A node that is not enrolled, or not where its address is, says so; a ring that is open
// asks for nobody's word.
func TestWhyNotCounted(t *testing.T) {
	n := newBench(t, at(1))
	n.apart.aware = true
	n.record(n.key, func(r *view.Record) {
		r.Seq, r.Services = n.Number()+5, map[string]view.ServiceAddr{"api": {Public: public}}
	})
	n.enrol(true, membership.Member{Node: bundle.NodeID{9}, Name: "n9", Class: "kv"})
	if !n.alarmed("this node is not enrolled") {
		t.Errorf("alarms %q", n.Alarms())
	}
	me := n.self()
	me.Hosts = []string{"10.0.0.9"}
	n.enrol(true, me)
	if !n.alarmed("enrolled at other hosts") || n.alarmed("not enrolled") {
		t.Errorf("alarms %q", n.Alarms())
	}
	me.Hosts = []string{hostOf(public)}
	n.enrol(true, me)
	if got := n.Alarms(); len(got) != 0 {
		t.Errorf("alarms %q", got)
	}
	n.cfg.OpenRing = true
	n.enrol(true, membership.Member{Node: bundle.NodeID{9}, Name: "n9", Class: "kv"})
	if got := n.Alarms(); len(got) != 0 || n.Stranger(n.cfg.Self) {
		t.Errorf("alarms %q", got)
	}
}

// What is not understood changes nothing, and says so.
func TestMembersNotUnderstood(t *testing.T) {
	n := newBench(t, at(1))
	stranger := n.record(nil, func(*view.Record) {})
	n.enrol(true, n.self())
	n.enrol(false)
	n.Step(n.now, DocumentUnreadable{Document: Document{Kind: KindMembers, Chunk: bundle.Chunk(n.Metadata().Members.Ref)}, Problem: "format 2"})
	if n.ready(); !n.Stranger(stranger) || !n.alarmed("who belongs to the cluster is not understood") {
		t.Errorf("a stranger: %v, alarms %q", n.Stranger(stranger), n.Alarms())
	}
	n.enrol(true, n.self(), membership.Member{Node: stranger, Name: "n2", Class: "kv"})
	if n.Stranger(stranger) || len(n.Alarms()) != 0 {
		t.Errorf("a stranger: %v, alarms %q", n.Stranger(stranger), n.Alarms())
	}
}

// Whoever fills the view by nodes that he makes up keeps no member out of it, and gets no
// more in.
func TestMadeUpNodesYieldToMembers(t *testing.T) {
	if testing.Short() {
		t.Skip("it fills a view")
	}
	n := newBench(t, at(2))
	sign := func(i int) (bundle.NodeID, view.Signed) {
		seed := bundle.Sum(fmt.Append(nil, i))
		key := ed25519.NewKeyFromSeed(seed[:])
		s, err := view.Sign(key, view.Record{Name: fmt.Sprint("n", i), Class: "kv", Seq: 1, Version: 1, Phase: "current", Since: n.now})
		if err != nil {
			t.Fatal(err)
		}
		return bundle.NodeIDOf(key.Public().(ed25519.PublicKey)), s
	}
	early, earlyRecord := sign(-1)
	member, memberRecord := sign(-2)
	n.enrol(true, n.self(), membership.Member{Node: early, Class: "kv"}, membership.Member{Node: member, Class: "kv"})
	if _, err := n.Merge(n.now, earlyRecord); err != nil {
		t.Fatal(err)
	}
	made := 0
	for n.View().Len() < view.MaxNodes {
		_, s := sign(made)
		made++
		if _, err := n.Merge(n.now, s); err != nil {
			t.Fatalf("%d nodes: %v", n.View().Len(), err)
		}
	}
	n.ready()
	full := n.View().Len()
	_, more := sign(made)
	if changed, err := n.Merge(n.now, more); !errors.Is(err, view.ErrFull) || len(changed) != 0 {
		t.Fatalf("one more that is made up: changed %d, %v", len(changed), err)
	}
	changed, err := n.Merge(n.now, more, memberRecord)
	if !errors.Is(err, view.ErrFull) || !slices.Equal(changed, []bundle.NodeID{member}) || n.Stranger(member) {
		t.Errorf("a member beside one that is made up: changed %v, %v", changed, err)
	}
	dropped := n.Ready().Dropped
	if len(dropped) != 1 || n.View().Len() != full {
		t.Fatalf("%d nodes gave way, %d stay, want one of %d", len(dropped), n.View().Len(), full)
	}
	if _, there := n.View().Get(dropped[0]); there || dropped[0] == early || dropped[0] == n.cfg.Self || n.Stranger(dropped[0]) {
		t.Errorf("node %s gave way; in the view: %v", dropped[0].Short(), there)
	}
	if _, there := n.View().Get(early); !there {
		t.Error("a member has gone")
	}
	if changed, err := n.Merge(n.now, memberRecord, more); len(changed) != 0 || !errors.Is(err, view.ErrFull) {
		t.Errorf("again: changed %d, %v", len(changed), err)
	}
}

// Who belongs is known over a restart, also where the metadata name a newer document that
// is not here; and where the database is lost, that the ring is closed.
func TestMembersOverRestart(t *testing.T) {
	n := newBench(t, at(1))
	member := n.claim(nil, "n2", "10.0.0.2:7001")
	stranger := n.claim(nil, "made-up", "10.0.0.3:666", func(r *view.Record) {
		r.Services["api"] = view.ServiceAddr{Public: "10.0.0.3:7000", Versions: map[bundle.Version]string{1: "10.0.0.3:666"}}
	})
	doc := []membership.Member{n.self(), {Node: member, Name: "n2", Class: "kv"}}
	n.enrol(true, doc...)
	bound, before := n.BoundOrders()[membersAt], n.Members()
	n.enrol(false, append(doc, membership.Member{Node: bundle.NodeID{9}, Name: "n9", Class: "kv"})...)
	n.Step(n.now, FetchEnded{})
	if n.ready(); !n.alarmed("no peer has the document") || len(n.Directory()) != 1 {
		t.Errorf("the new document is nowhere: alarms %q, directory %v", n.Alarms(), n.Directory())
	}
	again := func(m Memory) *bench {
		var records []view.Signed
		for r := range n.View().All() {
			s, _ := n.View().Signed(r.Node)
			records = append(records, s)
		}
		m.Records = records
		node, err := New(n.cfg, m, n.now)
		if err != nil {
			t.Fatal(err)
		}
		return &bench{Node: node, t: t, key: n.key}
	}
	state := at(1)
	after := again(Memory{State: &state, Metadata: n.Metadata(), Floor: n.floor, Bound: map[bundle.Version]bundle.Digest{membersAt: bound}})
	read := after.Unread()
	if len(read) != 2 || read[0].Kind != KindBoundMembers || read[0].Digest != bound || read[1].Kind != KindMembers {
		t.Fatalf("to be read: %v", read)
	}
	after.Advance(Ready{Read: read})
	after.Step(n.now, MembersRead{read[0], before})
	after.Step(n.now, DocumentMissing{read[1]})
	after.ready()
	if !after.Stranger(stranger) || after.Stranger(member) || len(after.Directory()) != 1 {
		t.Errorf("strangers %v, directory %v", after.belonging.strangers, after.Directory())
	}
	if after.MissingDocuments() != 1 {
		t.Errorf("%d documents are asked for", after.MissingDocuments())
	}

	lost := again(Memory{Floor: n.floor})
	if lost.ready(); !lost.Closed() || len(lost.Directory()) != 0 {
		t.Errorf("the database is lost: closed %v, directory %v", lost.Closed(), lost.Directory())
	}
	old := n.Metadata()
	old.Members.Serial--
	old.Timestamp += 5
	if err := lost.JudgeMetadata(old); err == nil {
		t.Error("metadata with an older word on who belongs are taken")
	}
	lost.cfg.OpenRing = true
	if lost.Closed() {
		t.Error("an open ring is closed")
	}
}

// A node whose database and join token are lost says again what its peers know of it.
func TestEnrolmentComesBack(t *testing.T) {
	n := newBench(t, at(1))
	n.apart.aware = true // that it was lost
	by, err := membership.NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	e := by.Enrol(n.cfg.Self, "kv")
	n.record(n.key, func(r *view.Record) { r.Seq, r.Enrolment = n.Number()+5, e })
	if r := n.Node.record(); !reflect.DeepEqual(r.Enrolment, e) {
		t.Errorf("it says %v", r.Enrolment)
	}
}
