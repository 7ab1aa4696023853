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
	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/trust"
)

// Inject takes a bundle whole into a temporary file, checks every byte of it,
// and only then keeps anything.
func (b api) Inject(ctx context.Context, r io.Reader, signed *control.Signed) (control.Accepted, error) {
	if _, err := ask(b.a, &injectionBegun{}); err != nil {
		return control.Accepted{}, err
	}
	defer b.a.send(injectionEnded{})
	f, err := b.a.Arrival()
	if err != nil {
		return control.Accepted{}, fmt.Errorf("inject: %w", err)
	}
	accepted, err := b.inject(ctx, f, r, signed)
	return accepted, errors.Join(err, f.Close(), os.Remove(f.Name()))
}

func (b api) inject(ctx context.Context, f *os.File, r io.Reader, signed *control.Signed) (control.Accepted, error) {
	opened, err := archive.Receive(ctx, f, r, maxBundle, b.a.FirstRoot)
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
	if err := b.a.Keep(ctx, opened); err != nil {
		return control.Accepted{}, fmt.Errorf("inject: %w", err)
	}
	accepted, err := ask(b.a, &bundleKept{bundle: opened, set: v, signed: *signed, contentOnly: content})
	if err != nil {
		return accepted, fmt.Errorf("inject: %w", err)
	}
	return accepted, nil
}

// takeBundle brings into force what a bundle came with, once all that it brings is kept,
// and says what is to be said of it.
func (l *loop) takeBundle(b *bundleKept) (control.Accepted, error) {
	var err error
	switch {
	case b.contentOnly:
		l.step(node.LookAgain{})
		l.flush()
		err = l.checkKept()
	case l.trust.Digest() != b.set.Digest(): // a peer may have brought the very same meanwhile
		err = l.accept(b.signed)
	default:
		err = l.checkKept()
	}
	if err != nil {
		return control.Accepted{}, err
	}
	n := b.bundle.Head().Version
	message := fmt.Sprintf("release %d is here and spreads", n)
	if b.contentOnly {
		message = fmt.Sprintf("release %d was in force already; what this peer lacked of it is here now and spreads", n)
	}
	if !slices.ContainsFunc(l.trust.Orders(), func(v bundle.Version) bool { return v >= n }) {
		message += "; it has no rollout order yet, so nothing goes down"
	}
	for _, v := range l.lacking(n) {
		message += fmt.Sprintf("; release %d, which nodes need on their way, has not reached this peer: if nobody has injected its bundle, do so", v)
	}
	if l.node.Expired() {
		message += "; the signed metadata " + l.report().Expiry() + ", so nothing starts: `moult trust refresh`, then `moult trust push`"
	}
	return control.Accepted{Version: n, Digest: bundle.Sum(b.bundle.ManifestBytes(n)), Message: message}, nil
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
	n := opened.Head().Version
	if v, err = b.a.Verify(signed.Set); err != nil {
		return nil, false, operator.Refusal(err)
	}
	if ref, ok := v.Release(n); !ok || ref.Digest != bundle.Sum(opened.ManifestBytes(n)) {
		return nil, false, control.Refused(fmt.Errorf("the signed metadata beside the bundle name another release %d", n), "run `moult inject` with that very bundle")
	}
	content, err = ask(b.a, &judgementWanted{bundle: opened, set: v, orders: signed.Orders})
	return v, content, err
}

// lacksContent reports that a bundle's release is in force here, by metadata that v is not
// newer than, and that the disk does not have all of it: nobody has handed it in, or
// all peers have swept it.
func (l *loop) lacksContent(m *bundle.Manifest, digest bundle.Digest, v *trust.Verified) bool {
	if ref, ok := l.trust.Release(m.Version); !ok || ref.Digest != digest || trust.Newer(l.trust, v) || len(trust.Conflicts(l.trust, v)) > 0 {
		return false
	}
	return !l.Has(m, digest)
}

// lacking lists the releases before n that nodes of this class are below, and of which
// this peer has not what such a node needs.
func (l *loop) lacking(n bundle.Version) (vs []bundle.Version) {
	from := n
	for r := range l.node.View().Snapshot().All() {
		if !r.Left && !l.node.Stranger(r.Node) && r.Class == l.cfg.Class && r.Version > 0 {
			from = min(from, r.Version)
		}
	}
	for v := from + 1; v < n; v++ {
		m := l.node.Manifests()[v]
		if m == nil {
			vs = append(vs, v)
			continue
		}
		cu, changes := m.Classes[l.cfg.Class]
		if art, ok := cu.Artifact(l.platform); changes && ok && !l.Depot.Has(art.Digest) {
			vs = append(vs, v)
		}
	}
	return vs
}

// judgeBundle reports why a bundle must not be taken, by what is in force; content says
// that it is in force itself, and only what this peer lacks of it is to be kept.
func (l *loop) judgeBundle(opened *archive.Bundle, v *trust.Verified, orders map[bundle.Version][]byte) (content bool, err error) {
	m := opened.Head()
	digest := bundle.Sum(opened.ManifestBytes(m.Version))
	if l.lacksContent(m, digest, v) {
		return true, nil
	}
	return false, l.judge(m, digest, v, orders)
}

func (l *loop) judge(m *bundle.Manifest, digest bundle.Digest, v *trust.Verified, orders map[bundle.Version][]byte) error {
	if ns := trust.Conflicts(l.trust, v); len(ns) > 0 {
		l.noteEvidence(v)
		return control.Refused(fmt.Errorf("release %d is known here with other content: both are signed, neither is started", ns[0]), "publish a newer release")
	}
	if err := operator.CheckRelease(l.trust, m, digest); err != nil {
		return err
	}
	if err := operator.CheckFrom(m, func(class bundle.Class) bundle.Version {
		from, _ := l.node.From(class, m.Version)
		return from
	}); err != nil {
		return err
	}
	nodes := map[bundle.Class][]bundle.Platform{}
	for r := range l.node.View().Snapshot().All() {
		if !r.Left && !l.node.Stranger(r.Node) {
			nodes[r.Class] = append(nodes[r.Class], r.Platform)
		}
	}
	if err := operator.CheckPlatforms(m, nodes); err != nil {
		return err
	}
	if v.Digest() == l.trust.Digest() {
		return control.Refused(fmt.Errorf("release %d is here already, without a rollout order", m.Version), "`moult inject` without --no-order hands one over")
	}
	if _, err := trust.Verify(l.FirstRoot, l.trust, v.Set()); err != nil {
		return operator.Refusal(err)
	}
	for n, data := range orders {
		if err := l.checkOrder(v, n, data); err != nil {
			return control.Refused(err, "somebody else has changed the rollout meanwhile: look at `moult status`, and try again")
		}
	}
	return nil
}
