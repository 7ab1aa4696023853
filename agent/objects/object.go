package objects

import "moult/store/bundle"

// Object is one simulation object, as its release has it.
type Object struct {
	// Callers is the version that it answers, To the one that it calls.
	Callers, To bundle.Version
	Release     bundle.Version
	Past        bool // the release's pastSO, as opposed to its futureSO
	What        bundle.Simulation
	Program     bundle.Digest // the artifact of an exec object; zero: none for this platform
}

// Of returns the object that a release brings for a class. A release that does not
// change the class is compatible with the one before.
func Of(m *bundle.Manifest, class bundle.Class, platform bundle.Platform, past bool) Object {
	o := Object{Callers: m.Version, To: m.Version - 1, Release: m.Version, Past: past, What: bundle.Simulation{Kind: bundle.SimulateCompatible}}
	if past {
		o.Callers, o.To = o.To, o.Callers
	}
	cu, changes := m.Classes[class]
	if !changes {
		return o
	}
	o.What = cu.Future
	if past {
		o.What = cu.Past
	}
	if art, ok := cu.Artifact(platform); ok {
		o.Program = art.Digest
	}
	return o
}

// file is what an object runs from; false where it needs none.
func (o Object) file() (bundle.Digest, bool) {
	if blob, ok := o.What.Blob(); ok {
		return blob.Digest, true
	}
	return o.Program, o.What.Kind == bundle.SimulateExec
}

// outward lists the versions of objects from native's neighbour on, older or newer.
func outward[O any](all map[bundle.Version]O, native bundle.Version, newer bool) (way []bundle.Version) {
	next := func(v bundle.Version) bundle.Version {
		if newer {
			return v + 1
		}
		return v - 1
	}
	for v := next(native); ; v = next(v) {
		if _, ok := all[v]; !ok {
			return way
		}
		way = append(way, v)
	}
}
