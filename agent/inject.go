package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"moult/agent/control"
	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/trust"
)

// Inject takes a bundle whole into a temporary file, checks every byte of it,
// and only then keeps anything.
func (b api) Inject(ctx context.Context, r io.Reader, signed *control.Signed) (control.Accepted, error) {
	f, err := os.CreateTemp(b.a.cfg.Data, ".inject-*")
	if err != nil {
		return control.Accepted{}, fmt.Errorf("inject: %w", err)
	}
	accepted, err := b.inject(ctx, f, r, signed)
	return accepted, errors.Join(err, f.Close(), os.Remove(f.Name()))
}

func (b api) inject(ctx context.Context, f *os.File, r io.Reader, signed *control.Signed) (control.Accepted, error) {
	size, err := io.Copy(f, io.LimitReader(r, maxBundle+1))
	if err != nil {
		return control.Accepted{}, fmt.Errorf("inject: receive the bundle: %w", err)
	}
	if size > maxBundle {
		return control.Accepted{}, control.Refused(fmt.Errorf("inject: the bundle has more than %d bytes", int64(maxBundle)), "")
	}
	opened, err := archive.Open(f, size, b.a.firstRoot, nil)
	if err != nil {
		return control.Accepted{}, control.Refused(fmt.Errorf("inject: %w", err), "")
	}
	if signed == nil {
		if signed, err = ownSigned(opened); err != nil {
			return control.Accepted{}, err
		}
	}
	if err := b.judge(opened, signed); err != nil {
		return control.Accepted{}, err
	}
	if err := b.keep(ctx, opened); err != nil {
		return control.Accepted{}, err
	}
	if !b.a.ask(func() { err = b.a.accept(*signed) }) {
		err = errStopped
	}
	if err != nil {
		return control.Accepted{}, fmt.Errorf("inject: %w", err)
	}
	n := opened.Head().Version
	message := fmt.Sprintf("release %d is here and spreads", n)
	if len(signed.Orders) == 0 {
		message += "; it has no rollout order yet, so nothing goes down"
	}
	return control.Accepted{Version: n, Digest: bundle.Sum(opened.ManifestBytes(n)), Message: message}, nil
}

// ownSigned is what a bundle brings along itself.
func ownSigned(b *archive.Bundle) (*control.Signed, error) {
	set, err := b.Trust().Set().Marshal()
	if err != nil {
		return nil, err
	}
	s := &control.Signed{Set: set, Orders: map[bundle.Version][]byte{}}
	n := b.Head().Version
	if order, ok := b.Order(n); ok {
		s.Orders[n] = order
	}
	return s, nil
}

// judge reports why a bundle, whole and validly signed by itself, must not be
// taken by this peer.
func (b api) judge(opened *archive.Bundle, signed *control.Signed) error {
	m := opened.Head()
	digest := bundle.Sum(opened.ManifestBytes(m.Version))
	set, err := trust.ParseSet(signed.Set)
	if err != nil {
		return control.Refused(err, "")
	}
	v, err := trust.Verify(b.a.firstRoot, nil, set)
	if err != nil {
		return control.Refused(err, "")
	}
	if ref, ok := v.Release(m.Version); !ok || ref.Digest != digest {
		return control.Refused(fmt.Errorf("inject: the signed metadata beside the bundle name another release %d", m.Version), "")
	}
	if !b.a.ask(func() { err = b.a.judge(m, digest, v) }) {
		return errStopped
	}
	return err
}

func (a *Agent) judge(m *bundle.Manifest, digest bundle.Digest, v *trust.Verified) error {
	if n, found := trust.Conflict(a.trust, v); found {
		if raw, err := v.Set().Marshal(); err == nil {
			a.keepEvidence(n, raw)
		}
		return control.Refused(fmt.Errorf("inject: release %d is known here with other content: both are signed, neither is started", n), "publish a newer release")
	}
	head := a.trust.Head()
	switch {
	case m.Version == head:
		if _, ok := a.trust.Order(m.Version); ok {
			return control.Refused(fmt.Errorf("inject: release %d is here already", head), "`moult status` shows how far it is")
		}
	case m.Version < head:
		return control.Refused(fmt.Errorf("inject: release %d is older than release %d, which is here", m.Version, head), "build the next release on top of it")
	case head != 0 && m.Version != head+1:
		return control.Refused(fmt.Errorf("inject: release %d skips: the newest here is %d", m.Version, head), fmt.Sprintf("inject release %d first", head+1))
	}
	if m.Version != head {
		if ref, ok := a.trust.Release(head); ok && m.Previous != ref.Digest {
			return control.Refused(fmt.Errorf("inject: release %d follows another release %d than the one here", m.Version, head), "build it on top of the release that was injected")
		}
	}
	return a.judgePlatforms(m)
}

// judgePlatforms refuses a release that no node could run: a mistake in
// packing, better found before it spreads.
func (a *Agent) judgePlatforms(m *bundle.Manifest) error {
	for class, cu := range m.Classes {
		var offered, needed []bundle.Platform
		for _, art := range cu.Artifacts {
			offered = append(offered, art.Platform)
		}
		usable := false
		for r := range a.view.Snapshot().All() {
			if r.Class != class {
				continue
			}
			needed = append(needed, r.Platform)
			usable = usable || slices.Contains(offered, r.Platform)
		}
		if len(needed) > 0 && !usable {
			return control.Refused(fmt.Errorf("inject: release %d has class %s for %v only, and the nodes run on %v", m.Version, class, offered, uniq(needed)),
				"add an artifact block for that platform to the release spec")
		}
	}
	return nil
}

func uniq(ps []bundle.Platform) []bundle.Platform {
	var out []bundle.Platform
	for _, p := range ps {
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// keep stores what the bundle brings: documents, rules and every platform's
// artifact, so that other peers can fetch them here.
func (b api) keep(ctx context.Context, opened *archive.Bundle) error {
	var need int64
	for _, c := range opened.Blobs() {
		need += c.Length
	}
	if err := b.a.store.CheckSpace(3*need + spareDisk); err != nil {
		return fmt.Errorf("inject: %w", err)
	}
	for n := range opened.Manifests() {
		data := opened.ManifestBytes(n)
		if _, err := b.a.depot.PutBlob(data); err != nil {
			return fmt.Errorf("inject: %w", err)
		}
	}
	for _, cu := range opened.Head().Classes {
		for _, s := range []bundle.Simulation{cu.Past, cu.Future} {
			if s.Kind != bundle.SimulateRules {
				continue
			}
			data, err := readBlob(opened, s.Rules)
			if err == nil {
				_, err = b.a.depot.PutBlob(data)
			}
			if err != nil {
				return fmt.Errorf("inject: %w", err)
			}
		}
		for _, art := range cu.Artifacts {
			if err := b.keepArtifact(ctx, opened, art); err != nil {
				return fmt.Errorf("inject: artifact %s: %w", art.Digest.Short(), err)
			}
		}
	}
	return nil
}

func (b api) keepArtifact(ctx context.Context, opened *archive.Bundle, art bundle.Artifact) error {
	asm, err := b.a.depot.Begin(art)
	if err != nil {
		return err
	}
	for _, c := range asm.Missing() {
		if err = ctx.Err(); err != nil {
			break
		}
		var data []byte
		if data, err = readBlob(opened, c); err != nil {
			break
		}
		if err = asm.Put(c.Digest, data); err != nil {
			break
		}
	}
	if err == nil {
		_, err = asm.Finish()
	}
	return closeWith(err, asm)
}

func readBlob(b *archive.Bundle, c bundle.Chunk) ([]byte, error) {
	r, ok := b.Blob(c.Digest)
	if !ok {
		return nil, fmt.Errorf("the bundle lacks %s", c.Digest.Short())
	}
	data := make([]byte, c.Length)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("read %s from the bundle: %w", c.Digest.Short(), err)
	}
	return data, nil
}
