package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"moult/agent/home"
	"moult/agent/objects"
	"moult/agent/software"
	"moult/simlayer/host"
	"moult/simlayer/so/wasm"
	"moult/store/bundle"
)

// objectsConfig says what this node's simulation objects are made of.
func (l *loop) objectsConfig() objects.Config {
	a := l.Agent
	return objects.Config{
		Platform: l.platform, Env: software.PlainEnvironment(l.Account, l.cfg.Env), Depot: l.Depot, States: l.Slots.Objects(), Memory: home.Observed{Home: a.Home},
		Start: l.startHost, Get: a.getObject, Log: l.log,
		Go: func(f func(context.Context)) {
			ctx, cancel := a.untilStopped()
			a.spawn(func() {
				defer cancel()
				f(ctx)
			})
		},
		Tell:  func(e objects.Event) { a.send(objectsSaid{event: e}) },
		Alarm: func(text string) { l.alarm("%s", text) },
	}
}

func (l *loop) noteObjects(e objects.Event) {
	l.objects.Take(e, time.Now())
	l.route()
}

// getObject fetches, checks and unpacks what an object runs from. It is called beside
// the loop.
func (a *Agent) getObject(ctx context.Context, o objects.Object) (string, error) {
	if blob, ok := o.What.Blob(); ok {
		return a.Depot.BlobPath(blob.Digest), a.fetchBlob(ctx, blob)
	}
	if err := a.fetchPath(ctx, []bundle.Version{o.Release}); err != nil {
		return "", err
	}
	return a.Depot.Ensure(ctx, o.Program)
}

// objectsDir names the host of this node's objects.
func (a *Agent) objectsDir() string { return filepath.Join(a.cfg.Data, "run") }

// hostConfig is how objects are run, but for the services.
func (a *Agent) hostConfig() host.Config {
	return host.Config{Dir: a.objectsDir(), Account: a.Account, Bounds: a.bounds.Objects, Sandbox: a.Sandbox, Env: software.PlainEnvironment(nil, nil), Cache: filepath.Join(a.cfg.Data, "cache"), Log: a.log}
}

func (l *loop) startHost() (objects.Host, error) {
	cfg := l.hostConfig()
	for _, name := range slices.Sorted(maps.Keys(l.cfg.Services)) {
		cfg.Services = append(cfg.Services, host.Service{Name: name, Protocol: l.answering.Protocols[name]})
	}
	h, err := host.Start(cfg)
	if err != nil {
		return nil, err // a nil *Host must not become a Host
	}
	return h, nil
}

// errNotFollowed is no reason to go on: what is waited for has not happened.
var errNotFollowed = fmt.Errorf("simulation objects have not caught up within %v", objectsTimeout)

// awaitObjects waits until the objects are as the loop wants them: what is not
// wanted any more has ended. Where that takes long it says so, for the caller to say.
// It is called beside the loop.
func (a *Agent) awaitObjects(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, objectsTimeout, errNotFollowed)
	defer cancel()
	for {
		followed, err := ask(a, &objectsWanted{})
		if followed == nil {
			return err
		}
		select {
		case <-followed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// partObjects tells the objects that the calls at the node have ended, and the
// software is about to. It is called beside the loop, and waits until they know: the
// calls that they get from then on wait. Objects that cannot run get none.
func (a *Agent) partObjects(ctx context.Context) error {
	if _, err := ask(a, &partingWanted{}); err != nil {
		return err
	}
	err := a.awaitObjects(ctx)
	if errors.Is(err, errNotFollowed) {
		return err
	}
	if err != nil && ctx.Err() == nil {
		a.log.Warn("simulation objects do not know that the node goes down", "err", err)
	}
	return nil
}

// compileAhead compiles the modules of the past objects that begin when the node has
// gone the path: callers are held meanwhile, who need not wait for that too. Where it
// fails they wait. It is called beside the loop.
func (a *Agent) compileAhead(ctx context.Context, path []bundle.Version) {
	if len(a.cfg.Services) == 0 {
		return
	}
	for _, v := range path {
		cu, err := ask(a, &classUpgradeWanted{release: v})
		if err != nil || cu.Past.Kind != bundle.SimulateWasm {
			continue
		}
		if err := host.Compile(ctx, a.hostConfig(), a.Depot.BlobPath(cu.Past.Wasm.Digest)); err != nil && ctx.Err() == nil {
			a.log.Warn("the module of a simulation object is not compiled ahead, so callers may have to wait for it", "err", err)
		}
	}
}

// objectState returns what a transform reads of the state of a release's object, in the
// folder dir, "" where there is none. The object has ended, perhaps by a crash. It is called
// beside the loop.
func (a *Agent) objectState(release bundle.Version, which, dir string, object bundle.Simulation) (string, error) {
	if dir == "" || object.Kind != bundle.SimulateWasm {
		return dir, nil
	}
	if err := wasm.RecoverFileKV(dir); err != nil {
		return "", fmt.Errorf("state of the %s object of release %d: %w", which, release, err)
	}
	return dir, nil
}
