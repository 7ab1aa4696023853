package plan

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"moult/cmd/moult/internal/screen"
	"moult/gossip/view"
	"moult/store/bundle"
)

// maxShownDenials bounds the denials of one object that are shown to people;
// -o json has all.
const maxShownDenials = 10

// Print writes it for people.
func (r *Report) Print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "release %d\t%s\n", r.Version, r.Digest.Short())
	fmt.Fprintf(w, "cluster\t%s\n", r.Cluster.Short())
	fmt.Fprintf(w, "signed until\t%s\n", r.Expires.Format(time.DateOnly))
	if r.FinalizeAfter > 0 {
		fmt.Fprintf(w, "finalized\tby each agent when all have been settled and well for %s, by its own clock; then nothing takes it back\n", r.FinalizeAfter)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, c := range r.Classes {
		if err := c.print(out); err != nil {
			return err
		}
	}
	if r.Agent != nil {
		if err := r.Agent.print(out, r.Version); err != nil {
			return err
		}
	}
	if r.Ring == nil {
		return nil
	}
	return r.Ring.print(out, r.Version)
}

func (a *Agent) print(out io.Writer, release bundle.Version) error {
	fmt.Fprintf(out, "\nagents: that of release %d, at most %s replaced at once\n", release, a.MaxUnavailable)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, art := range a.Artifacts {
		fmt.Fprintf(w, "  program\t%s, %s\n", art.Platform, screen.Bytes(art.Bytes))
	}
	if !a.Ordered {
		fmt.Fprintf(w, "  order\tnone: no agent is replaced unless the operator says so, by `moult inject --agents BUNDLE`\n")
	}
	return w.Flush()
}

func (c Class) print(out io.Writer) error {
	if c.From == 0 {
		fmt.Fprintf(out, "\nclass %s: version %d is installed\n", c.Class, c.To)
	} else {
		fmt.Fprintf(out, "\nclass %s: version %d to %d\n", c.Class, c.From, c.To)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, a := range c.Artifacts {
		fmt.Fprintf(w, "  software\t%s, %s\n", a.Platform, screen.Bytes(a.Bytes))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Services)) {
		fmt.Fprintf(w, "  service\t%s, %s\n", name, c.Services[name])
	}
	fmt.Fprintf(w, "  transform\t%s\n", c.Transform)
	fmt.Fprintf(w, "  schedule\t%s\n", c.Schedule)
	PrintFacts(w, c.Facts)
	for _, warning := range c.Warnings {
		fmt.Fprintf(w, "  warning\t%s\n", warning)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if c.From == 0 {
		return nil
	}
	return c.printCalls(out)
}

// PrintFacts writes a line per fact, for a tab writer.
func PrintFacts(w io.Writer, facts map[string]bundle.Fact) {
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		f := facts[name]
		by := strings.Join(f.Exec, " ")
		if f.HTTP != "" {
			by = strings.TrimSpace(fmt.Sprintf("%s of %s %s%s", f.HTTP, f.Service, f.Pointer, f.Prometheus))
		}
		fmt.Fprintf(w, "  fact\t%s, every %s: %s\n", name, f.Every, by)
	}
}

// printCalls shows what becomes of the calls between each two of the versions.
func (c Class) printCalls(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  CALLER\tNODE\tCALLS")
	for _, v := range []bundle.Version{c.From, c.To} {
		fmt.Fprintf(w, "  %d\t%d\tgo straight to the node\n", v, v)
	}
	for _, p := range c.Calls {
		fmt.Fprintf(w, "  %d\t%d\t%s\n", p.Callers, p.Nodes, p.words())
		if p.Object == "past" && p.Fate == fateSimulated {
			fmt.Fprintf(w, "  \t\t  retired after %s without a call\n", time.Duration(p.RetireAfter))
		}
		for i, d := range p.denials() {
			if i == maxShownDenials {
				fmt.Fprintf(w, "  \t\t  and %d more denials: see -o json\n", len(p.denials())-i)
				break
			}
			when := "some of "
			if d.Always {
				when = ""
			}
			fmt.Fprintf(w, "  \t\t  denied: %s%s: %s\n", when, d.Call, d.Reason)
		}
	}
	return w.Flush()
}

func (p Calls) denials() []Denial {
	if p.Rules == nil {
		return nil
	}
	return p.Rules.Denials
}

func (r *Ring) print(out io.Writer, release bundle.Version) error {
	for _, d := range r.Doubts {
		fmt.Fprintf(out, "\nnote: %s\n", d)
	}
	if r.Refused != "" {
		fmt.Fprintf(out, "\nthe agent would refuse it: %s\n", screen.Harmless(strings.TrimSuffix(r.Refused, ".")))
	}
	made := "as `moult inject` would rank them now"
	if r.Signed {
		made = "as the rollout order that is signed ranks them"
	}
	for _, c := range r.Classes {
		what := ""
		if !c.Changed {
			what = fmt.Sprintf(", which only becomes version %d", release)
		}
		fmt.Fprintf(out, "\nnodes of class %s%s, %s (%s):\n", c.Class, what, made, c.order())
		if len(c.Nodes) == 0 {
			fmt.Fprintln(out, "  none yet")
			continue
		}
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "  RANK\tNODE\tID\tVERSION\tPHASE\tNOTE")
		for _, n := range c.Nodes {
			fmt.Fprintf(w, "  %d\t%s\t%s\t%d\t%s\t%s\n", n.Rank, n.Name, n.ID.Short(), n.Version, cmp.Or(n.Phase, "-"), n.note(c.rehearses && n.goes(release)))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if e := c.Expected; e != nil {
			fmt.Fprintf(out, "  expected: about %s for the %d that are yet to go, each down for about %s: by the rehearsals of %d of them, without drains, windows and conditions\n",
				screen.Took(e.Takes), e.Nodes, screen.Took(e.Down), e.Known)
		}
	}
	return nil
}

// order says what a rank means.
func (c RingClass) order() string {
	switch c.Strategy {
	case bundle.StrategyAtOnce:
		return "all at once"
	case bundle.StrategyRandom:
		return "by chance"
	case bundle.StrategyManual:
		return fmt.Sprintf("each when it is started, at most %d down", c.Budget)
	}
	return fmt.Sprintf("in this order, at most %d down", c.Budget)
}

// note has what is to be said of a node; rehearses says that it is to rehearse.
func (n RingNode) note(rehearses bool) string {
	var notes []string
	if n.Canary {
		notes = append(notes, "canary")
	}
	if n.Wave > 0 {
		notes = append(notes, fmt.Sprintf("wave %d", n.Wave))
	}
	if n.Skipped {
		notes = append(notes, "skipped")
	}
	if !n.Reachable {
		notes = append(notes, "not reachable")
	}
	switch r := n.Rehearsed; {
	case r.Outcome == view.RehearsalOK && r.Reason == "":
		notes = append(notes, "rehearsed in "+screen.Took(r.Took))
	case r.Outcome == view.RehearsalOK:
		notes = append(notes, fmt.Sprintf("rehearsed in %s, but %s", screen.Took(r.Took), screen.Short(r.Reason)))
	case r.Outcome == view.RehearsalFailed:
		notes = append(notes, fmt.Sprintf("its rehearsal failed, after %s: %s", screen.Took(r.Took), screen.Short(r.Reason)))
	case r.Outcome == view.RehearsalUnable:
		notes = append(notes, "it could not be rehearsed: "+screen.Short(r.Reason))
	case r.Outcome != "":
		notes = append(notes, "not rehearsed: "+screen.Short(r.Reason))
	case rehearses:
		notes = append(notes, "not rehearsed yet")
	}
	return strings.Join(notes, ", ")
}
