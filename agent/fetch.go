package agent

import (
	"context"
	"fmt"
	"time"

	"moult/agent/node"
	"moult/store/bundle"
)

// needsOf lists the artifacts that a path needs, for this platform, and the
// files of its releases' simulation objects. It is called beside the loop.
func (a *Agent) needsOf(path []bundle.Version) (artifacts []bundle.Artifact, blobs []bundle.Chunk, err error) {
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
					blobs = append(blobs, blob)
				}
			}
		}
	}) {
		err = errStopped
	}
	return artifacts, blobs, err
}

// fetchPath fetches, checks and unpacks the artifacts of a path, and fetches
// its rules.
func (a *Agent) fetchPath(ctx context.Context, path []bundle.Version) error {
	artifacts, blobs, err := a.needsOf(path)
	if err != nil {
		return err
	}
	for _, c := range blobs {
		if err := a.fetchBlob(ctx, c); err != nil {
			return fmt.Errorf("simulation object %s: %w", c.Digest.Short(), err)
		}
	}
	for i, art := range artifacts {
		asm, err := a.depot.Begin(art)
		if err != nil {
			return err
		}
		done := make(chan struct{})
		a.spawn(func() { a.reportProgress(done, asm.Progress, i, len(artifacts)) })
		err = a.fetch.Fetch(ctx, art, asm)
		close(done)
		if err == nil {
			_, err = asm.Finish()
		}
		if err = closeWith(err, asm); err == nil {
			_, err = a.depot.Ensure(ctx, art.Digest)
		}
		if err != nil {
			return fmt.Errorf("artifact %s: %w", art.Digest.Short(), err)
		}
	}
	return nil
}

// reportProgress tells the loop, now and then, how far a fetch is.
func (a *Agent) reportProgress(done <-chan struct{}, progress func() (have, total int64), i, n int) {
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			have, total := progress()
			share := (float64(i) + float64(have)/float64(max(total, 1))) / float64(n)
			a.post(func() { a.step(node.Progress{Share: share}) })
		}
	}
}
