//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"moult/agent/control"
	"moult/agent/process"
	"moult/cmd/moult/internal/cluster"
	"moult/store/bundle"
	"moult/testdata/kit"
)

// memberSpec is a release of software that listens on one port for TCP and UDP, and is
// told of host and port apart. Each node's operator says who it is.
const memberSpec = `release {
  version = %d
  class "member" {
    %s
    artifact {
      os   = %q
      arch = %q
      path = "member"
    }
    command = ["./member", "--version", "%d", "--state", "${state}", "--host=${service.stream.host}", "--port", service.packets.port, "--label=${vars.ring}", "${args}"]
    service "stream" {
      protocol = "tcp"
    }
    service "packets" {
      protocol = "udp"
    }
    health {
      tcp              = true
      service          = "stream"
      interval         = "100ms"
      min_healthy_time = "500ms"
      drain_timeout    = "1s"
    }
    %s
  }
}
`

var serviceBlock = regexp.MustCompile(`(?s)  service "api" \{.*?\n  \}\n`)

// memberCluster configures three agents for the sample, whose two services have the same
// ports.
func memberCluster(t *testing.T, attach, user string) *testCluster {
	t.Helper()
	c := newCluster(t, 3)
	if user != "" {
		user = fmt.Sprintf("  user = %q\n", user)
		if err := os.Chmod(c.dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	c.edit(func(a *cluster.Agent, config string) string {
		var peers []string
		for _, b := range c.Agents {
			if b != a {
				peers = append(peers, b.Public())
			}
		}
		block := strings.Replace(serviceBlock.FindString(config), `"relay"`, fmt.Sprintf("%q", attach), 1)
		config = strings.Replace(config, `class = "kv"`, `class = "member"`, 1)
		config = serviceBlock.ReplaceAllLiteralString(config, strings.Replace(block, `"api" {`, "\"stream\" {\n    protocol = \"tcp\"\n    external_version = 1\n", 1)+
			strings.Replace(block, `"api" {`, "\"packets\" {\n    protocol = \"udp\"\n    external_version = 1\n", 1))
		return strings.Replace(config, "  env =", fmt.Sprintf(user+"  args = [\"--name\", %q, \"--advertise\", %q, \"--join=%s\"]\n  vars = { ring = \"birds\" }\n  env =", a.Name, a.Public(), strings.Join(peers, ",")), 1)
	})
	kit.Program(t, filepath.Join(c.dir, "member"), "testdata/member/cmd/member")
	c.up(c.Agents)
	c.formed(3)
	return c
}

func (c *testCluster) memberRelease(v bundle.Version, spoil ...string) (notes string) {
	c.t.Helper()
	from, simulations := "", ""
	if v > 1 {
		from, simulations = fmt.Sprintf("from = %d", v-1), "past { compatible = true }\n    future { compatible = true }"
	}
	text := fmt.Sprintf(memberSpec, v, from, runtime.GOOS, runtime.GOARCH, v, simulations)
	code, _, notes := c.command(c.Agents[0], "inject", "--trust", c.trustDir(), c.bundle(v, strings.NewReplacer(spoil...).Replace(text)))
	if code != exitDone {
		c.t.Fatalf("inject: exit code %d, %s", code, notes)
	}
	return notes
}

// unset hands in a release that needs what no operator has set: it is said at once, and
// no node goes down for it.
func (c *testCluster) unset(v bundle.Version) {
	c.t.Helper()
	a := c.Agents[0]
	var before []process.Handle
	for _, a := range c.Agents {
		before = append(before, c.recorded(a))
	}
	notes := c.memberRelease(v, `${vars.ring}`, `${vars.ring}${vars.zone}`)
	if !strings.Contains(notes, "node n1 has no ${vars.zone}, so it will not go down for release 3") {
		c.t.Errorf("inject says %q", notes)
	}
	// Which node goes first the order says, and only its own agent has looked.
	c.until(a, "the node whose turn it is to say what it lacks", func(control.Status) bool {
		return slices.ContainsFunc(c.Agents, func(a *cluster.Agent) bool {
			s, err := a.API.Status(c.t.Context(), false)
			n := node(s, a.Name)
			return err == nil && n.Version == 2 && n.Phase == "waiting" &&
				strings.Contains(n.Reason, "not ready to go down: version 3 cannot be started here: ${vars.zone} has no value")
		})
	})
	for i, a := range c.Agents {
		if now := c.recorded(a); now != before[i] {
			c.t.Errorf("the software of %s is process %d, was %d", a.Name, now.PID, before[i].PID)
		}
	}
}

// events are what a node has seen of its ring, over all its versions.
func (c *testCluster) events(a *cluster.Agent) string {
	data, err := os.ReadFile(filepath.Join(a.Data, "state", "current", "events"))
	if err != nil {
		return ""
	}
	return string(data)
}

// heard waits until every node at version v has heard every other, at v, by both networks.
func (c *testCluster) heard(v int) {
	c.t.Helper()
	for _, a := range c.Agents {
		c.until(a, fmt.Sprintf("every member to hear those of version %d by TCP and UDP", v), func(control.Status) bool {
			seen := c.events(a)
			for _, b := range c.Agents {
				for _, network := range []string{"tcp", "udp"} {
					if b != a && !strings.Contains(seen, fmt.Sprintf("v%d heard %s %s v%d\n", v, network, b.Name, v)) {
						return false
					}
				}
			}
			return true
		})
	}
}

// TestMember takes a ring by memberlist, which has one port for TCP and UDP, over a
// rolling upgrade: nobody is ever taken for dead, and all go on hearing each other by
// both networks.
func TestMember(t *testing.T) {
	inMixed(t)
	for _, k := range []kind{{"relay", "proxy"}, {"steer", "proxy"}} {
		user := "" // by steer, what is bound for UDP must be of the agent's user
		if k.attach == "relay" && os.Getuid() == 0 {
			user = "nobody"
		}
		t.Run(k.attach, func(t *testing.T) {
			if err := k.possible(); err != nil {
				t.Skipf("not possible here: %v", err)
			}
			c := memberCluster(t, k.attach, user)
			c.memberRelease(1)
			c.settledAt(c.Agents[0], 1, 3)
			c.inUse(k)
			c.heard(1)
			c.memberRelease(2)
			c.settledAt(c.Agents[0], 2, 3)
			c.heard(2)
			for _, a := range c.Agents {
				if seen := c.events(a); strings.Contains(seen, " leave ") {
					t.Errorf("%s has taken another for dead:\n%s", a.Name, seen)
				}
			}
			c.unset(3)
		})
	}
}
