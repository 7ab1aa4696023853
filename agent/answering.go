package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"moult/agent/node"
	"moult/agent/upgrade"
	"moult/store"
	"moult/store/bundle"
	"moult/transforms"
)

const keyAnswering = "answering"

func (a *Agent) restoreAnswering(m *node.Memory) error {
	data, ok, err := a.store.Get(bucketMachine, keyAnswering)
	if err != nil || !ok {
		return err
	}
	if err := json.Unmarshal(data, &m.Answering); err != nil {
		return fmt.Errorf("read whom this node answers: %w", err)
	}
	return nil
}

func putAnswering(tx *store.Tx, w *node.Answering) error {
	if w == nil {
		return nil
	}
	data, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return tx.Put(bucketMachine, keyAnswering, data)
}

// countCallers tells the node, now and then, who has called of those that it watches.
func (a *Agent) countCallers(now time.Time) {
	if now.Before(a.countAt) {
		return
	}
	a.countAt = now.Add(retireInterval)
	if len(a.routed.Watched) > 0 {
		a.step(node.Called{By: a.watchedCalls()})
	}
	if s := a.saved; !a.pastSwept && s.Running != 0 && s.Phase == upgrade.Current {
		a.pastSwept = true
		a.sweep(s)
		a.removePastStates(a.node.Answering().Oldest)
	}
}

// watchedCalls counts the calls of the callers that are watched.
func (a *Agent) watchedCalls() map[bundle.Version]node.Calls {
	by := map[bundle.Version]node.Calls{}
	stats := a.layer.Stats()
	for v := range a.routed.Watched {
		sum := callsOf(stats, v)
		by[v] = node.Calls{Begun: sum.Calls, Open: sum.Open}
	}
	return by
}

// noteAnswering goes on from what has just become durable.
func (a *Agent) noteAnswering(w node.Answering) {
	for v := a.answers.Oldest; v < w.Oldest; v++ {
		a.log.Info("simulation object retired: no node needs it, and nobody has called", "callers", v)
		a.pastSwept = false
	}
}

// removePastStates gives back the disk of objects that are retired: those for
// callers older than oldest. It waits, beside the loop, until they have ended.
func (a *Agent) removePastStates(oldest bundle.Version) {
	ctx, cancel := a.untilStopped()
	a.spawn(func() {
		defer cancel()
		var states []transforms.ObjectState
		err := a.settleObjects(ctx)
		if err == nil {
			states, err = a.slots.Objects().List()
		}
		for _, o := range states {
			if o.Kind == transforms.PastObject && o.Version <= oldest {
				err = errors.Join(err, a.slots.Objects().Retire(o.Version, o.Kind))
			}
		}
		if err != nil && ctx.Err() == nil {
			a.log.Warn("state of retired simulation objects stays for now", "err", err)
			a.post(func() { a.pastSwept, a.countAt = false, time.Now().Add(maxPause) })
		}
	})
}
