package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"moult/simlayer"
	"moult/simlayer/host"
	"moult/simlayer/so"
	"moult/store/bundle"
)

// simulated is one simulation object, as its release has it.
type simulated struct {
	// callers is the version that it answers, to the one that it calls.
	callers, to bundle.Version
	release     bundle.Version
	past        bool // the release's pastSO, as opposed to its futureSO
	what        bundle.Simulation
	program     bundle.Digest // the artifact of an exec object
}

// simulation returns the object that release n brings for this node's class. A
// release that does not change the class is compatible with the one before.
func (a *Agent) simulation(m *bundle.Manifest, past bool) simulated {
	o := simulated{callers: m.Version, to: m.Version - 1, release: m.Version, past: past, what: bundle.Simulation{Kind: bundle.SimulateCompatible}}
	if past {
		o.callers, o.to = o.to, o.callers
	}
	cu, changes := m.Classes[a.cfg.Class]
	if !changes {
		return o
	}
	o.what = cu.Future
	if past {
		o.what = cu.Past
	}
	if art, ok := cu.Artifact(a.platform); ok {
		o.program = art.Digest
	}
	return o
}

// objectHost keeps the processes of those objects that do not run in the agent.
// It is the loop's own.
type objectHost struct {
	host *host.Host // nil until one is needed
	set  host.Objects
	// programs are the folders of exec objects, by artifact, once they were
	// verified; fetching are those under way.
	programs map[bundle.Digest]string
	fetching map[bundle.Digest]bool
}

func newObjectHost() objectHost {
	return objectHost{programs: map[bundle.Digest]string{}, fetching: map[bundle.Digest]bool{}}
}

// place decides where each object answers: those that are bounded in time and
// memory by their form in the agent itself, the others in processes of their own,
// which then make all further steps. whole is false where something that they need
// has not arrived; callers from there on are not answered yet.
func (a *Agent) place(native bundle.Version, all map[bundle.Version]simulated, backends map[string]string) (objects map[bundle.Version]simlayer.Object, whole bool) {
	objects, whole = map[bundle.Version]simlayer.Object{}, true
	processes := map[bundle.Version]host.Object{}
	for _, way := range [][]bundle.Version{outward(all, native, false), outward(all, native, true)} {
		for _, v := range way {
			local, process, ok := a.placeOne(all[v])
			if !ok {
				whole = false
				break
			}
			if local != nil {
				objects[v] = simlayer.Object{Local: local}
			}
			processes[v] = process
		}
	}
	if err := a.runObjects(native, objects, processes, backends); err != nil {
		a.alarm("simulation objects cannot be run: %v", err)
		whole = false
	}
	return objects, whole
}

// outward lists the versions of objects from native's neighbour on, older or newer.
func outward(all map[bundle.Version]simulated, native bundle.Version, newer bool) (way []bundle.Version) {
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

// programs returns the artifacts that simulation objects run from.
func (a *Agent) programs() map[bundle.Digest]bool {
	all := map[bundle.Digest]bool{}
	for _, o := range a.serving.all {
		if o.what.Kind == bundle.SimulateExec {
			all[o.program] = true
		}
	}
	return all
}

// placeOne makes one object ready: the one that answers in this process, or nil,
// and how it runs in a process. ok is false where its file or program is not here.
func (a *Agent) placeOne(o simulated) (local so.Object, process host.Object, ok bool) {
	process = host.Object{Version: o.callers, To: o.to, Kind: o.what.Kind, Reason: o.what.Reason, Memory: o.what.MemoryMax, Timeout: time.Duration(o.what.Timeout)}
	if !o.past && o.what.Stateful() && a.saved.Phase.Down() {
		// Its state is what the transform works on. Callers are held meanwhile.
		process.Kind, process.Reason = bundle.SimulateRefuse, "the node is being upgraded"
		return so.Refuse(process.Reason), process, true
	}
	switch o.what.Kind {
	case bundle.SimulateCompatible:
		return so.Compatible(), process, true
	case bundle.SimulateRefuse:
		return so.Refuse(o.what.Reason), process, true
	case bundle.SimulateRules:
		rules, here := a.parsed(o.what.Rules.Digest)
		switch {
		case !here:
			return nil, process, false
		case rules == nil:
			process.Kind, process.Reason = bundle.SimulateRefuse, badRules
			return so.Refuse(badRules), process, true
		case rules.Bounded():
			local = rules
		}
		process.Path = a.depot.BlobPath(o.what.Rules.Digest)
		return local, process, true
	case bundle.SimulateWasm:
		if _, here, err := a.depot.Blob(o.what.Wasm.Digest); err != nil || !here {
			return nil, process, false
		}
		process.Path = a.depot.BlobPath(o.what.Wasm.Digest)
	case bundle.SimulateExec:
		dir, here := a.program(o)
		if !here {
			return nil, process, false
		}
		process.Dir, process.Argv, process.Env = dir, o.what.Exec, a.soft.plain()
	}
	state := a.slots.Objects().Future
	if o.past {
		state = a.slots.Objects().Past
	}
	dir, err := state(o.release)
	if err != nil {
		a.alarm("simulation object for callers of version %d has no folder for its state: %v", o.callers, err)
		return nil, process, false
	}
	process.State = dir
	return nil, process, true
}

// badRules is what callers are told whose rules are not in order.
const badRules = "the rules for this version do not parse"

// parsed returns the rules of a file, nil where they do not parse, and whether the
// file is here.
func (a *Agent) parsed(file bundle.Digest) (rules *so.Rules, here bool) {
	if rules, ok := a.rules[file]; ok {
		return rules, true
	}
	data, ok, err := a.depot.Blob(file)
	if err != nil || !ok {
		return nil, false
	}
	rules, err = so.ParseRules(data, file.Short()+".hcl")
	if err != nil {
		a.alarm("rules %s do not parse here, their callers are refused: %v", file.Short(), err)
		rules = nil
	}
	a.rules[file] = rules
	return rules, true
}

// program returns the folder of an exec object's program. Where it is not known to
// be good it is looked for beside the loop, and fetched.
func (a *Agent) program(o simulated) (dir string, here bool) {
	if dir, ok := a.objects.programs[o.program]; ok {
		return dir, true
	}
	if a.objects.fetching[o.program] {
		return "", false
	}
	a.objects.fetching[o.program] = true
	ctx, cancel := a.untilStopped()
	a.spawn(func() {
		defer cancel()
		err := a.insist(ctx, fmt.Sprintf("fetch the simulation object for callers of version %d", o.callers), func() error {
			return a.fetchPath(ctx, []bundle.Version{o.release})
		})
		var dir string
		if err == nil {
			dir, err = a.depot.Ensure(ctx, o.program)
		}
		a.post(func() {
			delete(a.objects.fetching, o.program)
			if err != nil {
				a.alarm("the program of the simulation object for callers of version %d is not here: %v", o.callers, err)
				return
			}
			a.objects.programs[o.program] = dir
			a.serving.whole = false // so that the objects are worked out anew
			a.route()
		})
	})
	return "", false
}

// runObjects has the objects that are not in this process run, with what lies
// between them and the node, and enters their addresses.
func (a *Agent) runObjects(native bundle.Version, objects map[bundle.Version]simlayer.Object, processes map[bundle.Version]host.Object, backends map[string]string) error {
	needed := map[bundle.Version]host.Object{}
	for v := range processes {
		if _, local := objects[v]; local {
			continue
		}
		for w := v; w != native; w = processes[w].To {
			needed[w] = processes[w]
		}
	}
	if len(needed) == 0 && a.objects.host == nil {
		return nil
	}
	if err := a.startObjects(); err != nil {
		return err
	}
	set := host.Objects{Native: native, Node: backends}
	for _, v := range slices.Sorted(maps.Keys(needed)) {
		set.List = append(set.List, needed[v])
	}
	ctx, cancel := context.WithTimeout(context.Background(), objectsTimeout)
	defer cancel()
	if err := a.objects.host.Set(ctx, set); errors.Is(err, context.DeadlineExceeded) {
		a.log.Warn("the object host is slow to follow", "err", err)
	} else if err != nil {
		return err
	}
	a.objects.set = set
	for v := range needed {
		if _, local := objects[v]; !local {
			objects[v] = simlayer.Object{Addrs: a.objects.host.Addrs(v)}
		}
	}
	return nil
}

func (a *Agent) startObjects() error {
	if a.objects.host != nil {
		return nil
	}
	cfg := host.Config{
		Dir: filepath.Join(a.cfg.Data, "run"), Hold: a.holdTimeout(a.saved), Cache: filepath.Join(a.cfg.Data, "cache"), Log: a.log,
	}
	for _, name := range slices.Sorted(maps.Keys(a.cfg.Services)) {
		cfg.Services = append(cfg.Services, host.Service{Name: name, Protocol: a.protocolOf(name)})
	}
	h, err := host.Start(cfg)
	if err != nil {
		return err
	}
	a.objects.host = h
	return nil
}

func (a *Agent) closeObjects() error {
	if a.objects.host == nil {
		return nil
	}
	return a.objects.host.Close()
}
