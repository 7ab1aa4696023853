//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/cmd/moult/internal/cluster"
)

// member types `moult member …`.
func (c *testCluster) member(a *cluster.Agent, args ...string) (stderr string) {
	c.t.Helper()
	code, _, errs := c.command(a, append([]string{"member", args[0], "--trust", c.trustDir()}, args[1:]...)...)
	if code != exitDone {
		c.t.Fatalf("member %s: exit code %d, %s", strings.Join(args, " "), code, errs)
	}
	return errs
}

// leads reports whether calls of a's software to the public address of another node are
// led to that node.
func (c *testCluster) leads(a, to *cluster.Agent) bool {
	c.t.Helper()
	r, err := a.API.Resolve(c.t.Context(), to.Public())
	if err != nil {
		c.t.Fatal(err)
	}
	return r.Peer
}

// TestMembership: the first release enrols who is there. Who comes later decides nothing
// until the operator says so, or a join token; and who is evicted decides nothing any more.
func TestMembership(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := newCluster(t, 4)
	first, stranger, guest := c.Agents[0], c.Agents[2], c.Agents[3]
	c.up(c.Agents[:2])
	c.formed(2)
	code, _, errs := c.command(first, "inject", "--trust", c.trustDir(), c.small(1, c.trustDir()))
	if code != exitDone || !strings.Contains(errs, "note: enrolled n1, n2: ") {
		t.Fatalf("inject: exit code %d, %s", code, errs)
	}
	c.complete(first, 1, 2)

	// n3 comes by itself: it gets the newest release, and is nobody.
	c.up([]*cluster.Agent{stranger})
	s := c.until(first, "a stranger", func(s control.Status) bool {
		return standing(s, "n3") == schedule.StandingStranger && node(s, "n3").Version == 1
	})
	if s.Classes["kv"].Total != 2 || c.leads(first, stranger) || !c.leads(first, c.Agents[1]) {
		t.Errorf("%d nodes count, and calls go to the stranger: %v", s.Classes["kv"].Total, c.leads(first, stranger))
	}
	c.until(stranger, "it to say so", func(s control.Status) bool {
		return strings.Contains(strings.Join(s.Alarms, "\n"), "this node is not enrolled")
	})
	code, _, errs = c.command(first, "inject", "--trust", c.trustDir(), c.small(2, c.trustDir()))
	if code != exitDone || !strings.Contains(errs, "note: n3 is not enrolled, so the order does not have it: `moult member add n3`") {
		t.Fatalf("inject: exit code %d, %s", code, errs)
	}
	if s = c.complete(first, 2, 2); node(s, "n3").Version != 1 {
		t.Errorf("the stranger is at version %d", node(s, "n3").Version)
	}

	// n4 has a join token: it counts from its first word on, at every peer.
	token := filepath.Join(c.dir, "join.token")
	c.member(first, "token", "--class", "kv", token)
	if fi, err := os.Stat(token); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the token's file: %v, %v", fi, err)
	}
	if code, _, errs := c.command(first, "member", "token", "--trust", c.trustDir(), token); code != exitFailed || !strings.Contains(errs, "is there already") {
		t.Errorf("the same file again: exit code %d, %s", code, errs)
	}
	config, err := os.ReadFile(guest.ConfigPath())
	if err != nil {
		t.Fatal(err)
	}
	enrolled := strings.Replace(string(config), "agent {", fmt.Sprintf("agent {\n  join_token = %q", token), 1)
	if err := guest.Configure(enrolled); err != nil {
		t.Fatal(err)
	}
	c.up([]*cluster.Agent{guest})
	c.complete(first, 2, 3)
	c.until(c.Agents[1], "n4 to count", func(s control.Status) bool { return standing(s, "n4") == "" && node(s, "n4").Version == 2 })
	if !c.leads(first, guest) {
		t.Error("no call is led to the node that a token has enrolled")
	}
	c.next(first, 3)
	if s = c.complete(first, 3, 3); node(s, "n3").Version != 1 {
		t.Errorf("the stranger is at version %d", node(s, "n3").Version)
	}

	// The token is revoked, and gone: who came by it is enrolled by name.
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	if errs := c.member(first, "revoke", "--keep", tokenOf(c.members(first))); !strings.Contains(errs, "enrolled n4 ") {
		t.Errorf("revoke: %s", errs)
	}
	c.kill(guest)
	c.up([]*cluster.Agent{guest}) // without the token
	c.until(guest, "n4 to be back", func(s control.Status) bool {
		return standing(s, "n4") == "" && cluster.Reachable(s) == 4 && len(s.Alarms) == 0
	})

	// n3 is enrolled, and n4 evicted.
	c.member(first, "add", "n3")
	c.until(first, "n3 to count", func(s control.Status) bool { return standing(s, "n3") == "" })
	c.wayOut(first, "n3", "moult retry")
	c.complete(first, 3, 4)
	c.member(first, "remove", "n4")
	if s = c.complete(first, 3, 3); standing(s, "n4") != schedule.StandingStranger && standing(s, "n4") != schedule.StandingSkipped {
		t.Errorf("n4 counts as %q", standing(s, "n4"))
	}
	c.next(first, 4)
	if s = c.complete(first, 4, 3); node(s, "n4").Version != 3 || c.leads(first, guest) {
		t.Errorf("the node that is evicted is at version %d, calls go there: %v", node(s, "n4").Version, c.leads(first, guest))
	}
	list := c.members(first)
	var by []string
	for _, m := range list.Members {
		by = append(by, m.Name+" "+m.By)
	}
	if got := strings.Join(by, ", "); got != "n1 name, n2 name, n3 name, n4 evicted" || len(list.Tokens) != 0 || list.Open {
		t.Errorf("members: %s, %+v", got, list)
	}
}

func (c *testCluster) members(a *cluster.Agent) (list memberList) {
	c.t.Helper()
	code, out, errs := c.command(a, "member", "list", "-o", "json")
	if code != exitDone {
		c.t.Fatalf("member list: exit code %d, %s", code, errs)
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		c.t.Fatal(err)
	}
	return list
}

func tokenOf(list memberList) string {
	if len(list.Tokens) != 1 {
		return "none"
	}
	return list.Tokens[0].ID
}

// TestOpenRing: where everybody is to count, nobody is enrolled.
func TestOpenRing(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := newCluster(t, 2)
	for _, a := range c.Agents {
		config, err := os.ReadFile(a.ConfigPath())
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Configure(strings.Replace(string(config), "agent {", "agent {\n  open_ring = true", 1)); err != nil {
			t.Fatal(err)
		}
	}
	first := c.Agents[0]
	c.up(c.Agents[:1])
	c.formed(1)
	c.next(first, 1)
	c.complete(first, 1, 1)
	c.up(c.Agents[1:])
	c.complete(first, 1, 2)
	c.next(first, 2)
	c.complete(first, 2, 2)
	if list := c.members(first); !list.Open || list.Members[1].By != "nothing" {
		t.Errorf("members: %+v", list)
	}
}
