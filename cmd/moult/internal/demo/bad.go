package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"moult/agent/control"
	"moult/cmd/moult/internal/cluster"
	"moult/gossip/view"
	"moult/store/bundle"
	"moult/testdata/kv/kvload"
)

// bad hands the running cluster a release that cannot read what its nodes have stored, and
// watches each of them find that out on a copy.
func (d *demo) bad(ctx context.Context, exe string, n int) (*Report, error) {
	loadCtx, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	results := make(chan *kvload.Result, 1)
	d.say("clients of version 1 call every node, all the time")
	if err := d.load(loadCtx, 1, results); err != nil {
		return nil, err
	}
	if err := wait(ctx, warmUp); err != nil {
		return nil, err
	}
	d.say("release 2 is bad: its transform takes the stored state for that of another version; it is injected at %s", d.injector().Name)
	began := time.Now()
	path, err := WriteSpec(d.dir, exe, 2)
	if err == nil {
		err = spoil(path)
	}
	if err == nil {
		err = d.inject(ctx, path, 2)
	}
	if err != nil {
		return nil, err
	}
	var last control.Status
	if err := d.cluster.Await(ctx, "every node to have rehearsed release 2", func(s control.Status) bool {
		last = s
		return rehearsed(s, "") == n
	}); err != nil {
		return nil, err
	}
	r := newReport(n, bundle.Duration(time.Since(began)), last)
	r.Version, r.Settled, r.Unfit = 1, cluster.Settled(last, 1)+rehearsed(last, view.RehearsalFailed), rehearsed(last, view.RehearsalFailed)
	for _, node := range last.Nodes {
		if node.Rehearsed.Outcome == view.RehearsalFailed {
			r.Why = fmt.Sprintf("%s: %s", node.Name, node.Rehearsed.Reason)
			break
		}
	}
	if err := wait(ctx, coolDown); err != nil {
		return nil, err
	}
	stopLoad()
	r.addLoad(<-results)
	return r, measure(ctx, d.cluster, d.injector(), r)
}

// rehearsed counts the nodes at version 1 that have rehearsed release 2, with an outcome, or
// any where it is "".
func rehearsed(s control.Status, outcome view.Outcome) (n int) {
	for _, node := range s.Nodes {
		if r := node.Rehearsed; node.Version == 1 && r.Release == 2 && (r.Outcome == outcome || outcome == "") {
			n++
		}
	}
	return n
}

// spoil has the release of a spec transform with the program of the version after it, which
// reads what that version has stored, and has it rehearsed.
func spoil(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := strings.Replace(string(data), `"2", "migrate"]`, `"3", "migrate"]`, 1)
	text = strings.Replace(text, "past {", "rehearse {}\n    past {", 1)
	return os.WriteFile(path, []byte(text), 0o600)
}

// badVerdict is nil if the bad release was stopped before it had done anything.
func (r *Report) badVerdict() error {
	var bad []error
	if r.Unfit < r.Nodes {
		bad = append(bad, fmt.Errorf("the rehearsal failed on %d of %d nodes", r.Unfit, r.Nodes))
	}
	if r.MaxDown > 0 {
		bad = append(bad, fmt.Errorf("%d nodes were down", r.MaxDown))
	}
	if c := r.Calls["1"]; c.Failed > 0 || c.OK == 0 {
		bad = append(bad, fmt.Errorf("%d calls were answered, and %d failed", c.OK, c.Failed))
	}
	if len(bad) == 0 {
		return nil
	}
	return fmt.Errorf("the demo did not hold: %w", errors.Join(bad...))
}

func (r *Report) printBad(w io.Writer) error {
	c := r.Calls["1"]
	_, err := fmt.Fprintf(w, "\nrelease 2 was stopped %.1f s after its injection: its rehearsal failed on %d of %d nodes\n"+
		"why                     %s\nnodes that went down    %d\ncalls of version 1      %d ok, %d failed; the slowest took %d ms\n",
		time.Duration(r.Took).Seconds(), r.Unfit, r.Nodes, r.Why, r.MaxDown, c.OK, c.Failed, time.Duration(c.Slowest).Milliseconds())
	return err
}
