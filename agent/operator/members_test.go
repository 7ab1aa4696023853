package operator

import (
	"fmt"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/agent/membership"
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
