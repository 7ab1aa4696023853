//go:build unix

package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/agent/membership"
	"moult/agent/operator"
)

// TestMembersLost: the document of who belongs is signed, and lost before any peer had it. The
// alarm says so, nothing is changed on top of what nobody has, and `member add --all --anew`
// begins anew.
func TestMembersLost(t *testing.T) {
	inCluster(t)
	t.Parallel()
	c := settledSmall(t, 2)
	first := c.Agents[0]
	folder := c.openTrust()
	defer folder.Close()
	n2 := node(c.until(first, "n2", func(s control.Status) bool { return node(s, "n2").Version == 1 }), "n2")
	signed, err := operator.New(folder).SignMembers((*membership.Membership)(nil).Evict(n2.ID)) // n1 is nobody by it
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.API.Accept(t.Context(), control.Signed{Set: signed.Set}); err != nil {
		t.Fatal(err)
	}
	lost, err := filepath.Glob(filepath.Join(c.trustDir(), "rollouts", "members-*.json"))
	if err != nil || len(lost) == 0 {
		t.Fatalf("documents: %v, %v", lost, err)
	}
	for _, file := range lost {
		err = errors.Join(err, os.Remove(file))
	}
	if err := errors.Join(err, folder.Close()); err != nil {
		t.Fatal(err)
	}
	said := func(s control.Status) bool {
		return slices.ContainsFunc(s.Alarms, func(text string) bool { return strings.Contains(text, "`moult member add --all --anew` begins anew") })
	}
	for _, a := range c.Agents {
		c.until(a, "it to say that nobody has who belongs", said)
	}
	if code, _, errs := c.command(first, "member", "add", "--trust", c.trustDir(), "n2"); code != exitRefused || !strings.Contains(errs, "`moult member add --all --anew` begins anew") {
		t.Errorf("on top of what is lost: exit code %d, %s", code, errs)
	}
	c.member(first, "add", "--all", "--anew")
	for _, a := range c.Agents {
		c.until(a, "no alarm to be left", func(s control.Status) bool { return len(s.Alarms) == 0 })
	}
	list := c.members(c.Agents[1])
	if len(list.Members) != 2 || list.Members[0].By != "name" || list.Members[1].By != "name" || list.Open {
		t.Errorf("members: %+v", list)
	}
	c.next(first, 2)
	c.complete(first, 2, 2)
}
