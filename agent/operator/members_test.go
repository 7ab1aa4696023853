package operator

import (
	"fmt"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/agent/membership"
	"moult/agent/schedule"
	"moult/store/bundle"
)

// What a made-up node says of its addresses keeps nobody from being enrolled.
func TestEnrollingStrangeRecords(t *testing.T) {
	strange := map[string]control.ServiceStatus{
		"none": {}, "port": {Public: ":1"}, "escape": {Public: "\x1b[2J:1"}, "long": {Public: strings.Repeat("h", 2_000) + ":1"}, "good": {Public: "10.0.0.3:7000"},
	}
	for i := range 40 {
		strange[fmt.Sprint("more", i)] = control.ServiceStatus{Public: fmt.Sprintf("h%d:1", i)}
	}
	status := control.Status{Nodes: []control.NodeStatus{
		{ID: bundle.NodeID{1}, Name: "n1", Class: "kv", Services: map[string]control.ServiceStatus{"api": {Public: "10.0.0.1:7000"}, "web": {Public: "10.0.0.1:80"}}},
		{ID: bundle.NodeID{2}, Name: "made-up", Class: "kv", Services: strange},
	}}
	m, enrolled := Begun(nil, status)
	if _, err := m.Marshal(); err != nil || len(enrolled) != 2 {
		t.Fatalf("enrolled %v: %v", enrolled, err)
	}
	if got, _ := m.Member(bundle.NodeID{1}); len(got.Hosts) != 1 || got.Hosts[0] != "10.0.0.1" {
		t.Errorf("n1 is at %v", got.Hosts)
	}
	if got, _ := m.Member(bundle.NodeID{2}); len(got.Hosts) > membership.MaxHosts || got.Hosts[0] != "10.0.0.3" {
		t.Errorf("the made-up node is at %v", got.Hosts)
	}
	if again, enrolled := Begun(m, status); again != m || len(enrolled) != 0 {
		t.Error("it is begun twice")
	}
}

// Nobody signs what an agent that counts would refuse for good.
func TestOlderAgents(t *testing.T) {
	n := control.NodeStatus{Name: "n2", Phase: "current"}
	if got := older(control.Status{Nodes: []control.NodeStatus{{Name: "n1", Phase: "current", Reads: 1}, n}}); got != "n2" {
		t.Errorf("%q", got)
	}
	n.Standing = "left"
	if got := older(control.Status{Nodes: []control.NodeStatus{n, {Name: "only named by an order"}}}); got != "" {
		t.Errorf("%q", got)
	}
}

// TestEvictionMadeAgain: an eviction whose order did not get to the agent is handed over by
// the same command, and one that cannot change the order is one all the same.
func TestEvictionMadeAgain(t *testing.T) {
	f, first, ids := begunFolder(t)
	begun := encoded(t)(first, nil)
	signAll(t, f, begun)
	set, err := f.Current().Set().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	b := &halfAgent{deaf: true, trust: control.Trust{Set: set, Orders: map[bundle.Version][]byte{1: begun}}}
	for i, id := range ids {
		b.status.Nodes = append(b.status.Nodes, control.NodeStatus{ID: id, Name: fmt.Sprint("n", i+1), Class: "kv", Phase: "waiting", Reads: 2})
	}
	c, o, reasons := b.serve(t), New(f), []error(nil)
	evict := func(id bundle.NodeID) error {
		_, _, err := o.Change(t.Context(), c, 0, Eviction(id, func(m *membership.Membership, s control.Status) (*membership.Membership, error) {
			m, _ = Begun(m, s)
			return m.Evict(id), nil
		}, func(why error) { reasons = append(reasons, why) }))
		return err
	}
	at := func() (*membership.Membership, *schedule.Order) {
		m, err := membership.Parse(b.trust.Members)
		if err != nil {
			t.Fatal(err)
		}
		order, err := schedule.ParseOrder(b.trust.Orders[1])
		if err != nil {
			t.Fatal(err)
		}
		return m, order
	}
	if err := evict(ids[1]); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Fatalf("the agent has gone: %v", err)
	}
	b.deaf = false
	if err := evict(ids[1]); err != nil {
		t.Fatalf("the same again: %v", err)
	}
	if m, order := at(); !m.Evicted(ids[1]) || order.Attempts("kv", ids[1]) != 0 || order.Serial != 2 || len(reasons) != 1 || reasons[0] != nil {
		t.Errorf("the agent has order %+v and members %+v; told %v", order, m, reasons)
	}
	// Another operator has changed the order of serial 1 meanwhile.
	theirs := encoded(t)(first.Pause())
	b.trust.Orders[1] = theirs
	if err := evict(ids[0]); err != nil {
		t.Fatalf("where two orders contradict each other: %v", err)
	}
	if m, _ := at(); !m.Evicted(ids[0]) || string(b.trust.Orders[1]) != string(theirs) || len(reasons) != 2 || reasons[1] == nil || !strings.Contains(reasons[1].Error(), "contradict each other") {
		t.Errorf("members %+v; told %v", m, reasons)
	}
}
