package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"moult/agent/control"
	"moult/agent/operator"
	"moult/cmd/moult/internal/screen"
	"moult/cmd/moult/internal/status"
)

// follow shows the cluster until the rollout is complete: in place on a terminal, else in a
// line whenever a node has settled.
func (d *demo) follow(ctx context.Context, goal operator.Goal) (last control.Status, err error) {
	settled := -1
	draw := func(s control.Status) {
		if n := s.Classes["kv"].Settled; n != settled {
			settled = n
			d.say("%s", strings.Join(d.counts(s), "; "))
		}
	}
	if d.Screen.Redraws {
		live := screen.Start(d.Screen, false)
		defer func() { err = errors.Join(err, live.Close()) }()
		draw = func(s control.Status) {
			counts := d.counts(s) // once: a view is the same whenever it is asked for
			live.Show(func(width, _ int) []string {
				lines := status.Brief(s.Nodes, status.Options{Width: width, Color: d.Screen.Color})
				for _, c := range counts {
					lines = append(lines, strings.Split(screen.Wrap(c, width), "\n")...)
				}
				return lines
			})
		}
	}
	s, err := operator.Follow(ctx, d.injector().API, goal, draw)
	if s != nil {
		last = *s
	}
	return last, err
}

// counts says how far the rollout is, and what became of the clients' calls.
func (d *demo) counts(s control.Status) []string {
	c := s.Classes["kv"]
	lines := []string{fmt.Sprintf("%d of %d settled, %d down", c.Settled, c.Total, c.Down)}
	for _, l := range d.loads {
		snap := l.Snapshot()
		lines = append(lines, fmt.Sprintf("v%d clients: %d ok, %d failed, %d denied, slowest %v",
			snap.Version, snap.OK, snap.Failed, snap.Denied, snap.MaxLatency.Round(time.Millisecond)))
	}
	return lines
}
