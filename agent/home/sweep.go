package home

import (
	"errors"

	"moult/agent/upgrade"
	"moult/store/bundle"
	"moult/transforms"
)

// RemoveOldSlots gives back the disk of slots before the running one: see transforms.
func (h *Home) RemoveOldSlots(running bundle.Version, all bool) {
	if err := h.Slots.RemoveBefore(running, all); err != nil {
		h.log.Warn("old slots not removed", "err", err)
	}
}

// RemoveSlots removes the slots of a path, or what is left of them.
func (h *Home) RemoveSlots(path []bundle.Version) error {
	for _, v := range path {
		if err := h.Slots.Remove(v); err != nil { // or what it left of an object's state
			return err
		}
	}
	return nil
}

// RemoveFutureStates gives back the disk of what answered callers of versions that
// the node has reached; the transforms have had it.
func (h *Home) RemoveFutureStates(s upgrade.State) {
	err := h.retire(func(o transforms.ObjectState) bool {
		return o.Kind == transforms.FutureObject && o.Version <= s.Version
	})
	kept, err2 := h.Slots.Objects().Complements()
	err = errors.Join(err, err2)
	for _, v := range kept {
		if v <= s.Version { // it has gone forward again, with all of that
			err = errors.Join(err, h.Slots.Objects().RetireComplement(v))
		}
	}
	if err != nil {
		h.log.Warn("state of simulation objects not removed", "err", err)
	}
}

// RemovePastStates gives back the disk of objects for callers older than oldest, which have
// ended.
func (h *Home) RemovePastStates(oldest bundle.Version) error {
	return h.retire(func(o transforms.ObjectState) bool {
		return o.Kind == transforms.PastObject && o.Version <= oldest
	})
}

func (h *Home) retire(which func(transforms.ObjectState) bool) error {
	states, err := h.Slots.Objects().List()
	for _, o := range states {
		if which(o) {
			err = errors.Join(err, h.Slots.Objects().Retire(o.Version, o.Kind))
		}
	}
	return err
}
