package agent

import (
	"fmt"
	"os"
	"path/filepath"

	"moult/agent/upgrade"
)

// restore brings back the machine as it was before the restart, or makes the
// first one.
func (a *Agent) restore() error {
	if err := a.removeLeftovers(); err != nil {
		return err
	}
	if err := a.restoreView(); err != nil {
		return err
	}
	if err := a.restoreAnswering(); err != nil {
		return err
	}
	a.seq = a.store.Floor().RecordSeq
	state, err := a.lastState()
	if err != nil {
		return err
	}
	if d := a.store.Damage(); d != nil {
		a.alarm("the store was damaged (%s); what peers know is fetched again", d.What)
	}
	if a.machine, err = upgrade.New(state); err != nil {
		return err
	}
	a.saved = a.machine.State()
	return a.restoreTrust()
}

// removeLeftovers clears away what injections left that a crash ended.
func (a *Agent) removeLeftovers() error {
	left, err := filepath.Glob(filepath.Join(a.cfg.Data, injectPrefix+"*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("clear away an unfinished injection: %w", err)
		}
	}
	return nil
}

// lastState is the state as last saved, or what the slots say where none is:
// at the node's first start, or after the loss of the database.
func (a *Agent) lastState() (upgrade.State, error) {
	data, ok, err := a.store.Get(bucketMachine, keyState)
	if err != nil {
		return upgrade.State{}, err
	}
	if ok {
		return upgrade.ParseState(data)
	}
	return a.firstState()
}

func (a *Agent) firstState() (upgrade.State, error) {
	f := a.store.Floor()
	promises := upgrade.Promises{Settled: f.Settled, Obeys: f.Obeys, EndedRelease: f.EndedRelease, EndedCount: f.EndedCount}
	v, ok, err := a.slots.Current()
	switch {
	case err != nil:
		return upgrade.State{}, err
	case ok:
		return upgrade.Restored(v, promises), nil
	case a.cfg.Adopt == nil:
		return upgrade.State{
			Phase: upgrade.Current, Said: f.Settled, Obeys: f.Obeys, EndedRelease: f.EndedRelease, EndedCount: f.EndedCount,
		}, nil
	}
	v = a.cfg.Adopt.Version
	a.log.Info("taking over the software's state", "version", v, "from", a.cfg.Adopt.State)
	if err := a.slots.Adopt(v, a.cfg.Adopt.State); err != nil {
		return upgrade.State{}, err
	}
	return upgrade.Adopted(v), nil
}
