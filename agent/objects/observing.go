package objects

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"moult/store/bundle"
)

// observing is how an object is told of the calls of the version that it calls.
type observing struct {
	// path is where it is told, at its own address: a secret of the agent and the
	// object.
	path string
	// told: another agent may have told it before, so it may have missed something.
	told bool
}

// observing returns how an object is told of calls; false where it does not observe.
func (o *Objects) observing(one Object) (observing, bool) {
	if one.Past || !one.What.Observe || !one.What.Stateful() {
		return observing{}, false
	}
	w, known := o.observed[one.Release]
	if !known && o.mustEnd(o.node) {
		return observing{}, false // its state is a transform's now
	}
	if !known {
		w = observing{path: "/.moult/observed/" + rand.Text()}
		var err error
		if w.told, err = o.wasObserving(one.Release); err != nil {
			o.cfg.Alarm(fmt.Sprintf("it is not known whether the simulation object of release %d was told of earlier calls, so it is told that it may have missed some: %v", one.Release, err))
			w.told = true
		}
		o.observed[one.Release] = w
	}
	return w, true
}

// wasObserving reports whether the object of a release was told of calls before, as
// far as that can be known, and makes durable that it is now. The memory has the
// releases whose objects were ever told: an agent that comes after a crash does not
// know what its predecessor had not told yet.
func (o *Objects) wasObserving(release bundle.Version) (bool, error) {
	var before []bundle.Version
	data, ok, err := o.cfg.Memory.Load()
	if err == nil && ok {
		err = json.Unmarshal(data, &before)
	}
	if err != nil {
		return false, fmt.Errorf("read which objects observe: %w", err)
	}
	if slices.Contains(before, release) {
		return true, nil
	}
	dir, err := o.cfg.States.Future(release)
	if err != nil {
		return false, err
	}
	kept, err := os.ReadDir(dir) // also where the database was lost
	if err != nil {
		return false, fmt.Errorf("look at the state of the object: %w", err)
	}
	now := slices.DeleteFunc(before, func(v bundle.Version) bool { return v <= o.node.Settled })
	if data, err = json.Marshal(append(now, release)); err == nil {
		err = o.cfg.Memory.Save(data)
	}
	if err != nil {
		return false, fmt.Errorf("record which objects observe: %w", err)
	}
	return len(kept) > 0, nil
}
