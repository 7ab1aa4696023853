package rehearse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"moult/agent/account"
	"moult/agent/control"
	"moult/store/artifact"
	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/transforms"
)

// Bundled is a release whose bundle is here only to be rehearsed: in a folder of its own,
// beside what the node keeps.
type Bundled struct {
	*archive.Bundle
	dir     string
	account *account.Account
	file    *os.File
}

// Receive takes a bundle of at most most bytes into a folder, which it makes anew, and checks
// every byte of it. The folder is the caller's to remove. The bundle is read until ctx ends.
func Receive(ctx context.Context, r io.Reader, most int64, dir string, firstRoot []byte, a *account.Account) (b *Bundled, err error) {
	if err = transforms.RemoveTree(dir); err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err == nil {
		err = transforms.Enter(dir, a)
	}
	if err != nil {
		return nil, err
	}
	b = &Bundled{dir: dir, account: a}
	if b.file, err = os.OpenFile(filepath.Join(dir, "bundle"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, err
	}
	if b.Bundle, err = archive.Receive(ctx, b.file, &roomy{r: r, dir: dir}, most, firstRoot); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// roomy reads only while the disk of dir has room for it beside Reserve.
type roomy struct {
	r    io.Reader
	dir  string
	left int // that may be read before the disk is looked at again
}

func (r *roomy) Read(p []byte) (int, error) {
	if r.left <= 0 {
		if err := room(r.dir, lookBytes); err != nil {
			return 0, err
		}
		r.left = lookBytes
	}
	n, err := r.r.Read(p[:min(len(p), r.left)])
	r.left -= n
	return n, err
}

// room returns an error unless the disk of dir has need bytes beside Reserve.
func room(dir string, need int64) error { return transforms.CheckSpace(dir, need+Reserve) }

// Unpack lays out what the release does to a class, with its software for a platform. It
// keeps no blob of the bundle beside that.
func (b *Bundled) Unpack(ctx context.Context, class bundle.Class, platform bundle.Platform, log *slog.Logger) (p Passed, err error) {
	p = Passed{Version: b.Head().Version, ClassUpgrade: b.Head().Classes[class]}
	art, ok := p.Artifact(platform)
	if !ok {
		return p, control.Refused(fmt.Errorf("release %d has no software of class %s for %s", p.Version, class, platform), "ask its publisher for one")
	}
	dir := filepath.Join(b.dir, "artifacts")
	p.Depot, err = artifact.Open(dir, artifact.Options{Log: log, CheckSpace: room})
	if err == nil {
		err = transforms.Enter(dir, b.account)
	}
	for _, blob := range p.ObjectFiles() {
		if err == nil {
			err = p.Depot.TakeBlob(b.Bundle, blob)
		}
	}
	if err == nil {
		err = p.Depot.TakeArtifact(ctx, b.Bundle, art)
	}
	if err == nil {
		err = errors.Join(b.Close(), os.Remove(b.file.Name()))
	}
	if err == nil {
		p.Dir, err = p.Depot.Ensure(ctx, art.Digest)
	}
	return p, err
}

// Close ends the use of the bundle; its folder is the caller's to remove.
func (b *Bundled) Close() error { return b.file.Close() }
