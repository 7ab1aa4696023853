package demo

import (
	"context"

	"moult/cmd/moult/internal/cluster"
)

// measure asks the agents of c for their figures, and reads from their logs when
// each node was down: all are on one machine, so one clock.
func measure(ctx context.Context, c cluster.Cluster, injector *cluster.Agent, r *Report) error {
	from, err := injector.API.Info(ctx)
	if err != nil {
		return err
	}
	var downs []cluster.Down
	for _, a := range c.Agents {
		info, err := a.API.Info(ctx)
		if err != nil {
			return err
		}
		r.Objects += info.Objects
		r.LongestHold = max(r.LongestHold, info.LongestHold)
		for peer, n := range info.Traffic.Fetched {
			if peer == from.ID {
				r.BytesFromInjector += n
			} else {
				r.BytesFromPeers += n
			}
		}
		ds, err := a.Downs()
		if err != nil {
			return err
		}
		downs = append(downs, ds...)
	}
	r.MaxDown = cluster.MostAtOnce(downs)
	return nil
}
