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

// needsOf lists the artifacts that a path needs, one for each release, for this
// platform, and the files of its releases' simulation objects that are not here. It
// is called beside the loop.
func (a *Agent) needsOf(path []bundle.Version) (artifacts []bundle.Artifact, objects []node.Document, err error) {
	if !a.ask(func() {
		for _, v := range path {
			var cu bundle.ClassUpgrade
			if cu, err = a.classUpgrade(v); err != nil {
				return
			}
			art, ok := cu.Artifact(a.platform)
			if !ok {
				err = final{fmt.Errorf("release %d has no software of class %s for %s: ask its publisher for one", v, a.cfg.Class, a.platform)}
				return
			}
			artifacts = append(artifacts, art)
			for _, so := range []bundle.Simulation{cu.Past, cu.Future} {
				if blob, ok := so.Blob(); ok && !a.depot.HasBlob(blob.Digest) {
					objects = append(objects, node.Document{Kind: node.KindObject, Release: v, Chunk: blob})
				}
			}
		}
	}) {
		err = errStopped
	}
	return artifacts, objects, err
}

// fetchPath fetches, checks and unpacks the artifacts of a path, and fetches
// its rules.
func (a *Agent) fetchPath(ctx context.Context, path []bundle.Version) error {
	artifacts, objects, err := a.needsOf(path)
	if err != nil {
		return err
	}
	for _, doc := range objects {
		if err := a.fetchBlob(ctx, doc.Chunk); err != nil {
			return fmt.Errorf("a simulation object of release %d: %w; %s", doc.Release, err, node.Bring(doc.Release))
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
	asm, err := a.depot.Begin(art)
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
		dir, err = a.depot.Ensure(ctx, art.Digest)
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
	tell := func(text string) { a.ask(func() { a.alarmOf(causeSoftware, text) }) }
	dir, err = a.depot.Ensure(ctx, digest)
	if err == nil {
		tell("") // it may have come another way
	}
	if err == nil || !errors.Is(err, artifact.ErrDamaged) && !errors.Is(err, artifact.ErrUnknown) {
		return dir, err
	}
	var runs bundle.Version
	var art bundle.Artifact
	a.ask(func() {
		v := a.saved.Running
		if m := a.node.Manifests()[v]; m != nil {
			if one, ok := m.Classes[a.cfg.Class].Artifact(a.platform); ok && one.Digest == digest {
				runs, art = v, one
			}
		}
	})
	if runs == 0 {
		return "", fmt.Errorf("%w: %w", errLost, err)
	}
	a.log.Error("the software is damaged or gone, and fetched again", "release", runs, "err", err)
	a.ask(func() { a.step(node.LookAgain{}) }) // what lies beside it may be as well
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
		a.post(func() { a.step(node.Progress{Share: share}) })
		switch idle++; {
		case have != before:
			if idle > stalledTicks {
				a.post(func() { a.step(node.Trouble{}) })
			}
			before, idle = have, 0
		case idle == stalledTicks:
			text := fmt.Sprintf("no peer has given more of the software of release %d; %s", path[i], node.Bring(path[i]))
			a.post(func() { a.step(node.Trouble{Text: text}) })
		}
	}
}
