package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"moult/agent/node"
	"moult/store/artifact"
	"moult/store/bundle"
)

// softwareOf returns what a release does to this node, and its software for this platform.
// It is called beside the loop.
func (a *Agent) softwareOf(release bundle.Version) (cu bundle.ClassUpgrade, art bundle.Artifact, err error) {
	if cu, err = ask(a, &classUpgradeWanted{release: release}); err != nil {
		return cu, art, err
	}
	art, ok := cu.Artifact(a.platform)
	if !ok {
		err = final{fmt.Errorf("release %d has no software of class %s for %s: ask its publisher for one", release, a.cfg.Class, a.platform)}
	}
	return cu, art, err
}

// fetchPath fetches, checks and unpacks the artifacts of a path, and fetches the files of
// its releases' simulation objects. It is called beside the loop.
func (a *Agent) fetchPath(ctx context.Context, path []bundle.Version) error {
	var artifacts []bundle.Artifact
	for _, v := range path {
		cu, art, err := a.softwareOf(v)
		if err != nil {
			return err
		}
		artifacts = append(artifacts, art)
		for _, blob := range cu.ObjectFiles() {
			if err := a.fetchBlob(ctx, blob); err != nil {
				return fmt.Errorf("a simulation object of release %d: %w; %s", v, err, node.Bring(v))
			}
		}
	}
	for i, art := range artifacts {
		if _, err := a.fetchArtifact(ctx, art, func(done <-chan struct{}, asm *artifact.Assembly) {
			a.reportProgress(done, asm.Progress, path, i)
		}); err != nil {
			return err
		}
	}
	return nil
}

// fetchArtifact fetches an artifact, as far as it is not here, and unpacks it. report is
// called beside it, if it is not nil, until done is closed.
func (a *Agent) fetchArtifact(ctx context.Context, art bundle.Artifact, report func(done <-chan struct{}, asm *artifact.Assembly)) (dir string, err error) {
	asm, err := a.Depot.Begin(art)
	if err != nil {
		return "", err
	}
	done := make(chan struct{})
	if report != nil {
		a.spawn(func() { report(done, asm) })
	}
	err = a.fetch.Fetch(ctx, art, asm)
	close(done)
	if err == nil {
		_, err = asm.Finish()
	}
	if err = closeWith(err, asm); err == nil {
		dir, err = a.Depot.Ensure(ctx, art.Digest)
	}
	if err != nil {
		return "", fmt.Errorf("artifact %s: %w", art.Digest.Short(), err)
	}
	return dir, nil
}

// unpacked returns the folder of software that is about to be started, verified. Where that
// is damaged or gone, and is what the node runs or goes back to, it is fetched again, as
// long as that takes: there is nothing else to run. It is called beside the loop.
func (a *Agent) unpacked(ctx context.Context, digest bundle.Digest) (dir string, err error) {
	tell := func(text string) { a.tell(node.Alarm{Cause: causeSoftware, Text: text}) }
	dir, err = a.Depot.Ensure(ctx, digest)
	if err == nil {
		tell("") // it may have come another way
	}
	if err == nil || !errors.Is(err, artifact.ErrDamaged) && !errors.Is(err, artifact.ErrUnknown) {
		return dir, err
	}
	runs, _ := ask(a, &runningWanted{})
	_, art, unknown := a.softwareOf(runs)
	if unknown != nil || art.Digest != digest {
		return "", fmt.Errorf("%w: %w", errLost, err)
	}
	a.log.Error("the software is damaged or gone, and fetched again", "release", runs, "err", err)
	a.tell(node.LookAgain{}) // what lies beside it may be as well
	tell(fmt.Sprintf("the software of release %d, which this node runs, is damaged or gone on this disk, and is fetched from peers: until then the node is down; if none has it, %s; look at the disk", runs, node.Bring(runs)))
	if dir, err = a.fetchArtifact(ctx, art, nil); err == nil || ctx.Err() != nil {
		tell("") // it is back, or no longer what is to run
	}
	return dir, err
}

// causeSoftware is what is wrong with the unpacked software.
const causeSoftware = "unpacked software"

// reportProgress tells the loop, now and then, how far the fetch of a path is, which is
// at its i-th release, and what is missing where nothing comes any more.
func (a *Agent) reportProgress(done <-chan struct{}, progress func() (have, total int64), path []bundle.Version, i int) {
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	var before int64
	for idle := 0; ; {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		have, total := progress()
		share := (float64(i) + float64(have)/float64(max(total, 1))) / float64(len(path))
		a.tell(node.Progress{Share: share})
		switch idle++; {
		case have != before:
			if idle > stalledTicks {
				a.tell(node.Trouble{})
			}
			before, idle = have, 0
		case idle == stalledTicks:
			a.tell(node.Trouble{Text: fmt.Sprintf("no peer has sent any more of the software of release %d; %s", path[i], node.Bring(path[i]))})
		}
	}
}
