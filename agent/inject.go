package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"moult/agent/control"
	"moult/agent/node"
	"moult/agent/operator"
	"moult/store/artifact"
	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/trust"
)

// injectPrefix begins the names of the files that injections arrive in.
const injectPrefix = ".inject-"

// Inject takes a bundle whole into a temporary file, checks every byte of it,
// and only then keeps anything.
func (b api) Inject(ctx context.Context, r io.Reader, signed *control.Signed) (control.Accepted, error) {
	if !b.a.ask(func() { b.a.injecting++ }) {
		return control.Accepted{}, errStopped
	}
	defer b.a.ask(func() { b.a.injecting-- })
	f, err := os.CreateTemp(b.a.cfg.Data, injectPrefix+"*")
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
		return control.Accepted{}, control.Refused(fmt.Errorf("inject: the bundle has more than %d bytes", int64(maxBundle)), "build a smaller one")
	}
	opened, err := archive.Open(f, size, b.a.firstRoot, nil)
	if err != nil {
		return control.Accepted{}, operator.Refusal(fmt.Errorf("inject: %w", err))
	}
	if signed == nil {
		if signed, err = ownSigned(opened); err != nil {
			return control.Accepted{}, err
		}
	}
	v, content, err := b.judge(opened, signed)
	if err != nil {
		return control.Accepted{}, fmt.Errorf("inject: %w", err)
	}
	if err := b.keep(ctx, opened); err != nil {
		return control.Accepted{}, err
	}
	n := opened.Head().Version
	var lacking []bundle.Version
	var ordered bool
	var expired string
	if !b.a.ask(func() {
		switch a := b.a; {
		case content:
			a.step(node.LookAgain{})
			a.flush()
			err = a.kept()
		case a.trust.Digest() != v.Digest(): // a peer may have brought the very same meanwhile
			err = a.accept(*signed)
		default:
			err = a.kept()
		}
		lacking = b.a.lacking(n)
		if b.a.node.Expired() {
			expired = b.a.expiry()
		}
		ordered = slices.ContainsFunc(b.a.trust.Orders(), func(v bundle.Version) bool { return v >= n })
	}) {
		err = errStopped
	}
	if err != nil {
		return control.Accepted{}, fmt.Errorf("inject: %w", err)
	}
	message := fmt.Sprintf("release %d is here and spreads", n)
	if content {
		message = fmt.Sprintf("release %d was in force already; what this peer lacked of it is here now and spreads", n)
	}
	if !ordered {
		message += "; it has no rollout order yet, so nothing goes down"
	}
	for _, v := range lacking {
		message += fmt.Sprintf("; release %d, which nodes need on their way, has not reached this peer: if nobody has injected its bundle, do so", v)
	}
	if expired != "" {
		message += "; the signed metadata " + expired + ", so nothing starts: `moult trust refresh`, then `moult trust push`"
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
// taken by this peer. Otherwise it returns the metadata that are to be in force;
// content says that they are already, and only what they name is to be kept.
func (b api) judge(opened *archive.Bundle, signed *control.Signed) (v *trust.Verified, content bool, err error) {
	m := opened.Head()
	digest := bundle.Sum(opened.ManifestBytes(m.Version))
	set, err := trust.ParseSet(signed.Set)
	if err != nil {
		return nil, false, operator.Refusal(err)
	}
	if v, err = trust.Verify(b.a.firstRoot, nil, set); err != nil {
		return nil, false, operator.Refusal(err)
	}
	if ref, ok := v.Release(m.Version); !ok || ref.Digest != digest {
		return nil, false, control.Refused(fmt.Errorf("the signed metadata beside the bundle name another release %d", m.Version), "run `moult inject` with that very bundle")
	}
	if !b.a.ask(func() {
		if content = b.a.lacksContent(m, digest, v); !content {
			err = b.a.judge(m, digest, v, signed.Orders)
		}
	}) {
		err = errStopped
	}
	return v, content, err
}

// lacksContent reports that a bundle's release is in force here, by metadata that v is not
// newer than, and that the disk does not have all of it: nobody has handed it in, or
// all peers have swept it.
func (a *Agent) lacksContent(m *bundle.Manifest, digest bundle.Digest, v *trust.Verified) bool {
	if ref, ok := a.trust.Release(m.Version); !ok || ref.Digest != digest || trust.Newer(a.trust, v) || len(trust.Conflicts(a.trust, v)) > 0 {
		return false
	}
	for _, cu := range m.Classes {
		for _, art := range cu.Artifacts {
			if !a.depot.Has(art.Digest) {
				return true
			}
		}
		for _, s := range []bundle.Simulation{cu.Past, cu.Future} {
			if blob, ok := s.Blob(); ok && !a.depot.HasBlob(blob.Digest) {
				return true
			}
		}
	}
	return !a.depot.HasBlob(digest)
}

// lacking lists the releases before n that nodes of this class are below, and of which
// this peer has not what such a node needs.
func (a *Agent) lacking(n bundle.Version) (vs []bundle.Version) {
	from := n
	for r := range a.node.View().Snapshot().All() {
		if !r.Left && !a.node.Stranger(r.Node) && r.Class == a.cfg.Class && r.Version > 0 {
			from = min(from, r.Version)
		}
	}
	for v := from + 1; v < n; v++ {
		m := a.node.Manifests()[v]
		if m == nil {
			vs = append(vs, v)
			continue
		}
		cu, changes := m.Classes[a.cfg.Class]
		if art, ok := cu.Artifact(a.platform); changes && ok && !a.depot.Has(art.Digest) {
			vs = append(vs, v)
		}
	}
	return vs
}

func (a *Agent) judge(m *bundle.Manifest, digest bundle.Digest, v *trust.Verified, orders map[bundle.Version][]byte) error {
	if ns := trust.Conflicts(a.trust, v); len(ns) > 0 {
		a.seen(v)
		return control.Refused(fmt.Errorf("release %d is known here with other content: both are signed, neither is started", ns[0]), "publish a newer release")
	}
	if err := operator.CheckRelease(a.trust, m, digest); err != nil {
		return err
	}
	if err := operator.CheckFrom(m, func(class bundle.Class) bundle.Version {
		from, _ := a.node.From(class, m.Version)
		return from
	}); err != nil {
		return err
	}
	nodes := map[bundle.Class][]bundle.Platform{}
	for r := range a.node.View().Snapshot().All() {
		if !r.Left && !a.node.Stranger(r.Node) {
			nodes[r.Class] = append(nodes[r.Class], r.Platform)
		}
	}
	if err := operator.CheckPlatforms(m, nodes); err != nil {
		return err
	}
	if v.Digest() == a.trust.Digest() {
		return control.Refused(fmt.Errorf("release %d is here already, without a rollout order", m.Version), "`moult inject` without --no-order hands one over")
	}
	if _, err := trust.Verify(a.firstRoot, a.trust, v.Set()); err != nil {
		return operator.Refusal(err)
	}
	for n, data := range orders {
		if err := a.checkOrder(v, n, data); err != nil {
			return control.Refused(err, "somebody else has changed the rollout meanwhile: look at `moult status`, and try again")
		}
	}
	return nil
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
			blob, ok := s.Blob()
			if !ok {
				continue
			}
			data, err := readBlob(opened, blob)
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
	if errors.Is(err, artifact.ErrBusy) {
		if fetching := b.a.depot.Assembling(art.Digest); fetching != nil {
			return put(ctx, opened, fetching) // the node's own, which it finishes
		}
		asm, err = b.a.depot.Begin(art) // it has ended just now
	}
	if err != nil {
		return err
	}
	if err = put(ctx, opened, asm); err == nil {
		_, err = asm.Finish()
	}
	return closeWith(err, asm)
}

// put puts what is missing of an artifact.
func put(ctx context.Context, opened *archive.Bundle, asm *artifact.Assembly) error {
	for _, c := range asm.Missing() {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := readBlob(opened, c)
		if err != nil {
			return err
		}
		if err := asm.Put(c.Digest, data); err != nil {
			return err
		}
	}
	return nil
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
