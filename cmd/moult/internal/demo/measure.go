package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"time"

	"moult/cmd/moult/internal/cluster"
)

// measure asks the agents of c for their figures, and reads from their logs when
// each node was down: all are on one machine, so one clock.
func measure(ctx context.Context, c cluster.Cluster, injector *cluster.Agent, r *Report) error {
	from, err := injector.API.Info(ctx)
	if err != nil {
		return err
	}
	var downs []interval
	for _, a := range c.Agents {
		info, err := a.API.Info(ctx)
		if err != nil {
			return err
		}
		r.Objects += info.Objects
		r.LongestHoldMS = max(r.LongestHoldMS, time.Duration(info.LongestHold).Milliseconds())
		for peer, n := range info.Traffic.Fetched {
			if peer == from.ID {
				r.BytesFromInjector += n
			} else {
				r.BytesFromPeers += n
			}
		}
		ds, err := downTimes(a.LogPath())
		if err != nil {
			return err
		}
		downs = append(downs, ds...)
	}
	r.MaxDown = overlap(downs)
	return nil
}

// interval is a time during which one node was down for its upgrade.
type interval struct{ from, to time.Time }

// downTimes reads from an agent's log when its node was voluntarily down,
// from the decision to drain to the admission of calls.
func downTimes(path string) (downs []interval, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var since time.Time
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Time time.Time `json:"time"`
			Msg  string    `json:"msg"`
			From string    `json:"from"`
			To   string    `json:"to"`
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Msg != "phase" {
			continue
		}
		switch {
		case e.To == "draining":
			since = e.Time
		case !since.IsZero() && (e.To == "settled" || e.To == "held" || e.To == "waiting"):
			downs = append(downs, interval{since, e.Time})
			since = time.Time{}
		}
	}
	return downs, lines.Err()
}

// overlap returns the greatest number of intervals that have an instant in common.
func overlap(all []interval) int {
	most := 0
	for _, a := range all {
		n := 0
		for _, b := range all {
			if !b.from.After(a.from) && b.to.After(a.from) {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}
