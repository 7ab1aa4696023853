package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"moult/agent/control"
	"moult/agent/membership"
	"moult/agent/operator"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/store/durable"
)

func memberCommand() *cli.Command {
	return &cli.Command{
		Name:  "member",
		Usage: "say who belongs to the cluster, and so who counts",
		Description: "Signed by the operator. The first `moult inject` enrols the nodes that the agent knows; from\n" +
			"then on a node that is not enrolled may fetch and pass on, and decides nothing.",
		Subcommands: []*cli.Command{memberAddCommand(), memberRemoveCommand(), memberListCommand(), memberTokenCommand(), memberRevokeCommand()},
	}
}

func memberAddCommand() *cli.Command {
	return &cli.Command{
		Name: "add", Usage: "enrol nodes that the agent knows, with their class and the hosts of their addresses", ArgsUsage: "NODE…",
		Description: "Of a node that is enrolled already, class and hosts are taken anew.",
		Flags: []cli.Flag{agentFlag(), trustFlag(), &cli.BoolFlag{Name: "all", Usage: "every node that the agent knows and that is not evicted"},
			&cli.BoolFlag{Name: "anew", Usage: "with --all: whatever was signed before is lost or does not count"}},
		Action: func(c *cli.Context) error {
			if c.Bool("anew") && !c.Bool("all") {
				return misusef(seeHelp(c), "member add --anew forgets who was enrolled, so it goes with --all only")
			}
			if c.Bool("all") == c.Args().Present() {
				return misusef(seeHelp(c), "member add takes the names of nodes or the beginnings of their IDs, or --all")
			}
			return changeMembers(c, c.Bool("anew"), func(m *membership.Membership, s control.Status) (*membership.Membership, error) {
				var nodes []control.NodeStatus
				for _, name := range c.Args().Slice() {
					n, err := control.Find(s.Nodes, name, nodeNames)
					if err != nil {
						return nil, err
					}
					nodes = append(nodes, n)
				}
				m, _ = operator.Begun(m, s)
				if c.Bool("all") {
					for _, n := range s.Nodes {
						if !m.Evicted(n.ID) {
							nodes = append(nodes, n)
						}
					}
				}
				var members []membership.Member
				for _, n := range nodes {
					members = append(members, operator.Enrolling(n))
				}
				return m.Enrol(members...), nil
			})
		},
	}
}

func memberRemoveCommand() *cli.Command {
	return &cli.Command{
		Name: "remove", Usage: "evict a node: it counts for nothing, whatever it says, until `moult member add`", ArgsUsage: "NODE",
		Description: "No rollout waits for it, no call is led to it, and no join token enrols it again.\n" +
			"It still has the ring's secret: replace that, too, if it is not yours any more.",
		Flags: []cli.Flag{agentFlag(), trustFlag()},
		Action: func(c *cli.Context) error {
			name, err := oneArg(c, "the name of a node or the beginning of its ID")
			if err != nil {
				return err
			}
			list, err := listMembers(c) // which also has those that were never heard of
			if err != nil {
				return err
			}
			n, err := control.Find(list.Members, name, func(l memberLine) (string, bundle.NodeID) { return l.Name, l.ID })
			if err != nil {
				return err
			}
			evict := func(m *membership.Membership, s control.Status) (*membership.Membership, error) {
				m, _ = operator.Begun(m, s)
				return m.Evict(n.ID), nil
			}
			var news []string
			told := n.Name + " counts for no budget any more: if it is down just now, one more node may be"
			_, err = signOrder(c, operator.Eviction(n.ID, noting(&news, evict), func(why error) {
				if told = ""; why != nil {
					told = fmt.Sprintf("%s is evicted, and the rollout order is as it was, since it cannot be changed now: %v; if the rollout waits for %s, `moult member remove %s` again when it can", n.Name, why, n.Name, n.Name)
				}
			}))
			if err == nil && told != "" {
				news = append(news, told)
			}
			if err == nil {
				printNotes(c, news)
			}
			return err
		},
	}
}

func memberTokenCommand() *cli.Command {
	return &cli.Command{
		Name: "token", Usage: "make a join token: machines that have it are enrolled when they come", ArgsUsage: "FILE",
		Description: "Give the file to new machines as join_token in agent.hcl. Whoever has it can enrol any number of\n" +
			"nodes until `moult member revoke`, so keep it like a password.",
		Flags: []cli.Flag{agentFlag(), trustFlag(), &cli.StringFlag{Name: "class", Usage: "it enrols nodes of this `CLASS` only"}},
		Action: func(c *cli.Context) error {
			path, err := oneArg(c, "the file to write it to")
			if err != nil {
				return err
			}
			class := bundle.Class(c.String("class"))
			if class != "" && !bundle.ValidName(string(class)) {
				return misusef(seeHelp(c), "--class %q is no name for a class", class)
			}
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				return failedf("name another file", "make a join token: %s is there already", path)
			}
			secret, err := membership.NewSecret()
			if err != nil {
				return err
			}
			if err := durable.WriteFile(path, []byte(secret.String()+"\n"), 0o600); err != nil {
				return fmt.Errorf("make a join token: %w", err)
			}
			err = changeMembers(c, false, func(m *membership.Membership, s control.Status) (*membership.Membership, error) {
				m, _ = operator.Begun(m, s)
				return m.Allow(secret.Token(class)), nil
			})
			if err == nil {
				id := secret.Token(class).ID()
				say(c, "%s has join token %s: `moult member revoke %s` ends it", path, id, id)
				if o := outcomeOf(c); o != nil {
					o.File, o.Token = path, id
				}
			}
			return err
		},
	}
}

func memberRevokeCommand() *cli.Command {
	return &cli.Command{
		Name: "revoke", Usage: "end a join token", ArgsUsage: "TOKEN",
		Flags: []cli.Flag{agentFlag(), trustFlag(),
			&cli.BoolFlag{Name: "keep", Usage: "the nodes that it has enrolled are enrolled by name"},
			&cli.BoolFlag{Name: "with-nodes", Usage: "the nodes that it has enrolled count no more"}},
		Action: func(c *cli.Context) error {
			id, err := oneArg(c, "the ID of a token, as `moult member list` shows it")
			if err != nil {
				return err
			}
			return changeMembers(c, false, func(m *membership.Membership, s control.Status) (*membership.Membership, error) {
				var known []view.Record
				for _, n := range s.Nodes {
					known = append(known, operator.RecordOf(n))
				}
				next, lost, err := m.Revoke(id, known)
				if err != nil {
					return nil, misusef("`moult member list` shows the tokens in force", "revoke a join token: %w", err)
				}
				var keep []membership.Member
				var names []string
				for _, r := range lost {
					n, err := control.Find(s.Nodes, r.Node.String(), nodeNames)
					if err != nil {
						return nil, err
					}
					keep, names = append(keep, operator.Enrolling(n)), append(names, fmt.Sprintf("%s (%s)", n.Name, n.ID.Short()))
				}
				switch {
				case len(lost) == 0 || c.Bool("with-nodes"):
					return next, nil
				case c.Bool("keep"):
					return next.Enrol(keep...), nil
				}
				return nil, control.Refused(fmt.Errorf("revoke join token %s: it alone has enrolled %s", id, strings.Join(names, ", ")),
					"--keep enrols them by name, if all are yours; with --with-nodes they count no more")
			})
		},
	}
}

func nodeNames(n control.NodeStatus) (string, bundle.NodeID) { return n.Name, n.ID }

// changeMembers signs who belongs to the cluster from now on, and tells who that is anew.
func changeMembers(c *cli.Context, anew bool, change operator.MembersChange) error {
	folder, err := openTrust(c)
	if err != nil {
		return err
	}
	defer folder.Close()
	var news []string
	accepted, err := operator.New(folder).ChangeMembers(c.Context, client(c), anew, noting(&news, change))
	if err != nil || accepted.Message == "" {
		return err
	}
	printNotes(c, news)
	say(c, "%s", accepted.Message)
	return nil
}

// noting is a change that notes whom it enrols.
func noting(news *[]string, change operator.MembersChange) operator.MembersChange {
	return func(m *membership.Membership, s control.Status) (*membership.Membership, error) {
		next, err := change(m, s)
		if err != nil || next == m {
			return next, err
		}
		for _, e := range next.Members {
			if before, ok := m.Member(e.Node); !ok || fmt.Sprint(before) != fmt.Sprint(e) {
				*news = append(*news, fmt.Sprintf("enrolled %s (%s), of class %s, at %s", e.Name, e.Node.Short(), e.Class, orAnywhere(e.Hosts)))
			}
		}
		return next, nil
	}
}

func orAnywhere(hosts []string) string {
	if len(hosts) == 0 {
		return "any host"
	}
	return strings.Join(hosts, ", ")
}

// memberLine is one line of `moult member list`.
type memberLine struct {
	Name  string        `json:"name"`
	ID    bundle.NodeID `json:"id"`
	Class bundle.Class  `json:"class"`
	Hosts []string      `json:"hosts,omitempty"`
	// By is "name", "token" or, of a node that is there and not enrolled, "nothing";
	// "evicted" of one that is.
	By    string `json:"by"`
	Known bool   `json:"known"` // the agent has a record of it
}

// memberList is `moult member list -o json`.
type memberList struct {
	// Open tells that everybody counts: nothing is signed, or the agent has open_ring.
	Open    bool         `json:"open"`
	Members []memberLine `json:"members"`
	Tokens  []tokenLine  `json:"tokens"`
}

type tokenLine struct {
	ID    string       `json:"id"`
	Class bundle.Class `json:"class,omitempty"`
}

func memberListCommand() *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list who is enrolled, by what, and the join tokens in force",
		Flags: []cli.Flag{agentFlag(), outputFlag()},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			asJSON, err := wantsJSON(c)
			if err != nil {
				return err
			}
			list, err := listMembers(c)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c.App.Writer, list)
			}
			return list.print(c)
		},
	}
}

func listMembers(c *cli.Context) (memberList, error) {
	l := memberList{Members: []memberLine{}, Tokens: []tokenLine{}}
	peer, err := client(c).Trust(c.Context)
	if err != nil {
		return l, err
	}
	s, err := client(c).Status(c.Context, false)
	if err != nil {
		return l, err
	}
	var m *membership.Membership
	if peer.Members != nil {
		if m, err = membership.Parse(peer.Members); err != nil {
			return l, err
		}
	}
	l.Open = !peer.Closed
	known := map[bundle.NodeID]bool{}
	for _, n := range s.Nodes {
		known[n.ID] = true
		e, named := m.Member(n.ID)
		by := "nothing"
		switch {
		case named && e.Class == n.Class:
			by = "name"
		case m.Evicted(n.ID):
			by = "evicted"
		case m != nil && m.Counts(operator.RecordOf(n)):
			by = "token"
		}
		l.Members = append(l.Members, memberLine{n.Name, n.ID, n.Class, e.Hosts, by, true})
	}
	if m == nil {
		return l, nil
	}
	for _, e := range m.Members {
		if !known[e.Node] {
			l.Members = append(l.Members, memberLine{e.Name, e.Node, e.Class, e.Hosts, "name", false})
		}
	}
	for _, t := range m.Tokens {
		l.Tokens = append(l.Tokens, tokenLine{t.ID(), t.Class})
	}
	return l, nil
}

func (l memberList) print(c *cli.Context) error {
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tCLASS\tHOSTS\tENROLLED BY")
	for _, m := range l.Members {
		seen := ""
		if !m.Known {
			seen = ", not heard of here"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s%s\n", m.Name, m.ID.Short(), m.Class, orAnywhere(m.Hosts), m.By, seen)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, t := range l.Tokens {
		class := "any class"
		if t.Class != "" {
			class = "class " + string(t.Class)
		}
		fmt.Fprintf(c.App.Writer, "join token %s enrols nodes of %s\n", t.ID, class)
	}
	if l.Open {
		fmt.Fprintln(c.App.Writer, "everybody counts: the ring is open, or nobody is enrolled yet")
	}
	return nil
}
