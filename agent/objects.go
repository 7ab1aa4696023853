package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"moult/agent/software"
	"moult/simlayer/host"
	"moult/simlayer/so"
	"moult/simlayer/so/wasm"
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

// placement says where each object answers.
type placement struct {
	// processes has all of them, as each runs in a process of its own or in the
	// object host; local those that answer in the agent instead.
	processes map[bundle.Version]host.Object
	local     map[bundle.Version]so.Object
	// observing has those that are told of the node's calls, also while they are
	// away.
	observing map[bundle.Version]observing
	whole     bool // nothing is missing
	soon      bool // what is missing is on this disk, and only to be checked
}

// place decides where each object answers: those that are bounded in time and
// memory by their form in the agent itself, the others in processes of their own,
// which then make all further steps. Where something that one needs has not
// arrived, callers from there on are not answered yet.
func (a *Agent) place(native bundle.Version, all map[bundle.Version]simulated) placement {
	p := placement{processes: map[bundle.Version]host.Object{}, local: map[bundle.Version]so.Object{}, observing: map[bundle.Version]observing{}, whole: true}
	if len(a.cfg.Services) == 0 {
		return p // nobody calls
	}
	for _, newer := range []bool{false, true} {
		for _, v := range outward(all, native, newer) {
			local, process, ok := a.placeOne(all[v])
			if !ok {
				p.whole, p.soon = false, p.soon || a.beingChecked(all[v])
				break
			}
			p.processes[v] = process
			if w, observes := a.observing(all[v]); observes {
				p.observing[v] = w
			}
			if local != nil {
				p.local[v] = local
			}
		}
	}
	return p
}

// beingChecked reports whether what an object runs from is on this disk, and the look
// whether it is good has not ended.
func (a *Agent) beingChecked(o simulated) bool {
	if blob, ok := o.what.Blob(); ok {
		return a.objects.seeking[blob.Digest] && a.depot.HasBlob(blob.Digest)
	}
	return a.objects.seeking[o.program] && a.depot.Has(o.program)
}

// hosted returns what is to run in processes: the objects that are not in the
// agent, with those between them and the node.
func (p placement) hosted(native bundle.Version, node map[string]string, hold time.Duration) host.Objects {
	needed := map[bundle.Version]bool{}
	for v := range p.processes {
		if p.local[v] == nil {
			for w := v; w != native; w = p.processes[w].To {
				needed[w] = true
			}
		}
	}
	set := host.Objects{Native: native, Node: node, Hold: hold}
	for _, v := range slices.Sorted(maps.Keys(needed)) {
		set.List = append(set.List, p.processes[v])
	}
	return set
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

// programs returns the artifacts and files that simulation objects run from.
func (a *Agent) programs() map[bundle.Digest]bool {
	all := map[bundle.Digest]bool{}
	for _, o := range a.serving.all {
		if o.what.Kind == bundle.SimulateExec {
			all[o.program] = true
		}
		if blob, ok := o.what.Blob(); ok {
			all[blob.Digest] = true
		}
	}
	return all
}

// placeOne makes one object ready: the one that answers in this process, or nil,
// and how it runs in a process. ok is false where its file or program is not here.
func (a *Agent) placeOne(o simulated) (local so.Object, process host.Object, ok bool) {
	process = host.Object{Version: o.callers, To: o.to, Kind: o.what.Kind, Reason: o.what.Reason, Memory: o.what.MemoryMax, Timeout: time.Duration(o.what.Timeout)}
	refuse := func(why string) (so.Object, host.Object, bool) {
		process.Kind, process.Reason = host.KindRefuse, why
		return so.Refuse(why), process, true
	}
	if !o.past && o.what.Stateful() && a.objects.mustEnd(a.saved) {
		return refuse("the node is being upgraded") // callers are held meanwhile
	}
	switch o.what.Kind {
	case bundle.SimulateCompatible:
		return so.Compatible(), process, true
	case bundle.SimulateRefuse:
		return refuse(o.what.Reason)
	case bundle.SimulateRules:
		rules, here := a.parsed(o.what.Rules.Digest)
		switch {
		case !here:
			return nil, process, false
		case rules == nil:
			return refuse(badRules)
		case rules.Bounded():
			local = rules
		}
		process.Path = a.depot.BlobPath(o.what.Rules.Digest)
		return local, process, true
	case bundle.SimulateWasm:
		process.Path, ok = a.module(o)
	case bundle.SimulateExec:
		if o.program.IsZero() {
			return refuse(fmt.Sprintf("release %d has no software for %s, so no simulation object either", o.release, a.platform))
		}
		process.Dir, ok = a.program(o)
		process.Argv, process.Env = o.what.Exec, software.PlainEnvironment(a.cfg.Env)
	}
	if !ok {
		return nil, process, false
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
	if w, observes := a.observing(o); observes {
		process.Observe = w.path
	}
	return nil, process, true
}

// compileAhead compiles the modules of the past objects that begin when the node has
// gone the path: callers are held meanwhile, who need not wait for that too. Where it
// fails they wait. It is called beside the loop.
func (a *Agent) compileAhead(ctx context.Context, path []bundle.Version) {
	var files []string
	a.ask(func() {
		for _, v := range path {
			if cu, err := a.classUpgrade(v); err == nil && cu.Past.Kind == bundle.SimulateWasm && len(a.cfg.Services) > 0 {
				files = append(files, a.depot.BlobPath(cu.Past.Wasm.Digest))
			}
		}
	})
	for _, file := range files {
		if err := host.Compile(ctx, a.hostConfig(), file); err != nil && ctx.Err() == nil {
			a.log.Warn("the module of a simulation object is not compiled ahead, so callers may have to wait for it", "err", err)
		}
	}
}

// futureState returns what the transform of a release reads of its future object's
// state, "" where there is none. The object has ended, perhaps by a crash. It is called
// beside the loop.
func (a *Agent) futureState(release bundle.Version, cu bundle.ClassUpgrade) (string, error) {
	dir := a.slots.Objects().FutureState(release)
	if dir == "" || cu.Future.Kind != bundle.SimulateWasm {
		return dir, nil
	}
	if err := wasm.RecoverFileKV(dir); err != nil {
		return "", fmt.Errorf("state of the future object of release %d: %w", release, err)
	}
	return dir, nil
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

// program returns the folder of an exec object's program.
func (a *Agent) program(o simulated) (dir string, here bool) {
	return a.seek(o, o.program, func(ctx context.Context) (string, error) {
		if err := a.fetchPath(ctx, []bundle.Version{o.release}); err != nil {
			return "", err
		}
		return a.depot.Ensure(ctx, o.program)
	})
}

// module returns the file of a wasm object's module.
func (a *Agent) module(o simulated) (path string, here bool) {
	file := o.what.Wasm
	return a.seek(o, file.Digest, func(ctx context.Context) (string, error) {
		return a.depot.BlobPath(file.Digest), a.fetchBlob(ctx, file)
	})
}

// seek returns where an object's file is. Where it is not known to be good it is
// looked for beside the loop by get, until that succeeds.
func (a *Agent) seek(o simulated, file bundle.Digest, get func(context.Context) (string, error)) (path string, here bool) {
	if path, ok := a.objects.files[file]; ok {
		return path, true
	}
	if _, sought := a.objects.seeking[file]; sought {
		return "", false
	}
	a.objects.seeking[file] = true
	ctx, cancel := a.untilStopped()
	a.spawn(func() {
		defer cancel()
		for pause := minPause; ; pause = min(2*pause, maxPause) {
			path, err := get(ctx)
			if err == nil {
				a.post(func() { a.found(file, path) })
				return
			}
			a.log.Warn("what a simulation object runs from is not here, trying again", "callers", o.callers, "in", pause, "err", err)
			a.post(func() { a.notFound(file) })
			if _, hopeless := errors.AsType[final](err); hopeless {
				pause = maxPause
			}
			timer := time.NewTimer(pause)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
		}
	})
	return "", false
}

// found notes where a file is that was looked for.
func (a *Agent) found(file bundle.Digest, path string) {
	delete(a.objects.seeking, file)
	a.objects.files[file] = path
	a.placeAnew()
}

// notFound notes that a file is not here, or not good, and is fetched: nobody else
// waits for that.
func (a *Agent) notFound(file bundle.Digest) {
	if a.objects.seeking[file] {
		a.objects.seeking[file] = false
		a.placeAnew()
	}
}

// placeAnew works out anew where objects answer.
func (a *Agent) placeAnew() {
	a.serving.whole, a.serving.again = false, time.Time{}
	a.route()
}

// forgetFiles forgets those of objects that are no more: they may be swept.
func (a *Agent) forgetFiles() {
	used := a.programs()
	maps.DeleteFunc(a.objects.files, func(d bundle.Digest, _ string) bool { return !used[d] })
}
