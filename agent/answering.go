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
func (l *loop) countCallers(now time.Time) {
	if now.Before(l.countAt) {
		return
	}
	l.countAt = now.Add(retireInterval)
	if len(l.routed.Watched) > 0 {
		l.step(node.Called{By: l.watchedCalls()})
	}
	if s := l.saved; !l.pastSwept && s.Running != 0 && s.Phase == upgrade.Current {
		l.pastSwept = true
		l.sweep(s)
		l.removePastStates(l.node.Answering().Oldest)
	}
}

// watchedCalls counts the calls of the callers that are watched.
func (l *loop) watchedCalls() map[bundle.Version]node.Calls {
	by := map[bundle.Version]node.Calls{}
	stats := l.layer.Stats()
	for v := range l.routed.Watched {
		sum := callsOf(stats, v)
		by[v] = node.Calls{Begun: sum.Calls, Open: sum.Open}
	}
	return by
}

// noteAnswering goes on from what has just become durable.
func (l *loop) noteAnswering(w node.Answering) {
	for v := l.answering.Oldest; v < w.Oldest; v++ {
		l.log.Info("simulation object retired: no node needs it, and nobody has called", "callers", v)
		l.pastSwept = false
	}
}

// removePastStates gives back the disk of objects that are retired: those for
// callers older than oldest. It waits, beside the loop, until they have ended.
func (l *loop) removePastStates(oldest bundle.Version) {
	a := l.Agent
	ctx, cancel := a.untilStopped()
	a.spawn(func() {
		defer cancel()
		var states []transforms.ObjectState
		err := a.awaitObjects(ctx)
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
			a.send(pastStatesKept{})
		}
	})
}

// sweepPastLater has that tried again.
func (l *loop) sweepPastLater() { l.pastSwept, l.countAt = false, time.Now().Add(maxPause) }
