package operator

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"moult/agent/control"
	"moult/store/bundle"
	"moult/store/bundle/archive"
	"moult/store/bundle/placeholder"
	"moult/store/bundle/trust"
)

// advice tells what to do about a bundle or signed metadata that is refused,
// by what is wrong with it.
var advice = []struct {
	err  error
	hint string
}{
	{archive.ErrTooLong, "build a smaller one"},
	{archive.ErrCorrupt, "copy it again from where it was built, and check it with `moult bundle verify`"},
	{bundle.ErrTooNew, "upgrade moult itself first"},
	{trust.ErrConflict, "publish the next number, and find out who else holds the publisher's key"},
	{trust.ErrRollback, "somebody has signed something newer since: build or sign it again on top of that"},
	{trust.ErrUntrusted, "build and sign it with the trust folder of this cluster: `moult bundle inspect --root ROOT BUNDLE` tells whether it was"},
	{trust.ErrMalformed, "it was not written by moult: build or sign it again"},
	{bundle.ErrMalformed, "its manifest was not written by moult: build it again"},
	{bundle.ErrNotCanonical, "its manifest was not written by moult: build it again"},
	{bundle.ErrInvalid, "its manifest was not written by moult: build it again"},
}

// Refusal makes an error about a bundle or signed metadata one that refuses,
// with advice, where it is the content that is wrong. Other errors, such as a
// disk that cannot be read, stay as they are.
func Refusal(err error) error {
	for _, a := range advice {
		if errors.Is(err, a.err) {
			return control.Refused(err, a.hint)
		}
	}
	return err
}

// Fits reports why an agent, with these metadata and nodes, would refuse the
// bundle's release. firstRoot is the root of the cluster that is meant.
func Fits(firstRoot []byte, b *archive.Bundle, peer control.Trust, status control.Status) error {
	set, err := trust.ParseSet(peer.Set)
	if err != nil {
		return fmt.Errorf("read the agent's metadata: %w", err)
	}
	inForce, err := trust.Verify(firstRoot, nil, set)
	if err != nil {
		return otherCluster(err)
	}
	if err := CheckRelease(inForce, b.Head(), headDigest(b)); err != nil {
		return err
	}
	withdrawn, err := Withdrawn(peer.Orders)
	if err != nil {
		return fmt.Errorf("read the agent's rollout orders: %w", err)
	}
	if err := CheckFrom(b.Head(), func(class bundle.Class) bundle.Version {
		return withdrawn.From(class, b.Head().Version, func(v bundle.Version) (changes, known bool) {
			if m := b.Manifests()[v]; m != nil {
				_, changes = m.Classes[class]
				return changes, true
			}
			return unknown(v)
		})
	}); err != nil {
		return fromError{err}
	}
	platforms := map[bundle.Class][]bundle.Platform{}
	for _, n := range status.Nodes {
		if n.Standing == "" && n.Platform != (bundle.Platform{}) {
			platforms[n.Class] = append(platforms[n.Class], n.Platform)
		}
	}
	return CheckPlatforms(b.Head(), platforms)
}

// otherCluster explains why an agent's metadata cannot be used: most often they
// are those of another cluster.
func otherCluster(err error) error {
	if errors.Is(err, trust.ErrUntrusted) {
		return control.Refused(fmt.Errorf("the agent's metadata are not those of this trust folder: %w", err),
			"use the trust folder of the agent's cluster: `moult status` shows which it is")
	}
	if errors.Is(err, trust.ErrFastForward) {
		return control.Refused(fmt.Errorf("the agent's metadata are not taken over: %w", err),
			"somebody has used a key that was replaced; `moult trust push --accept-jump` signs above these numbers, for good")
	}
	return Refusal(err)
}

// ErrOrdered says that a release is in force, and that nodes were asked to go to it or
// beyond: there is no first order to be signed for it any more.
var ErrOrdered = errors.New("no first order")

// orderedError is a refusal for that reason.
type orderedError struct{ error }

func (e orderedError) Is(target error) bool { return target == ErrOrdered }
func (e orderedError) Unwrap() error        { return e.error }

// fromError is a refusal by CheckFrom.
type fromError struct{ error }

func (e fromError) Unwrap() error { return e.error }

// CheckRelease reports why a peer must not take release m, whose manifest has
// this digest, on top of what it has: ErrOrdered for errors.Is, or another reason. It
// decides only by what is signed.
func CheckRelease(inForce *trust.Verified, m *bundle.Manifest, digest bundle.Digest) error {
	head := inForce.Head()
	ref, known := inForce.Release(m.Version)
	var asked bundle.Version // nodes were asked to go so far
	for _, n := range inForce.Orders() {
		asked = max(asked, n)
	}
	switch {
	case known && ref.Digest != digest:
		return control.Refused(fmt.Errorf("release %d is known here with other content", m.Version),
			"both are signed: publish the next number, and find out who else holds the publisher's key")
	case known && m.Version < asked:
		return orderedError{control.Refused(fmt.Errorf("release %d is older than release %d, which is here", m.Version, asked), "build the next release on top of that")}
	case known && m.Version == asked:
		return orderedError{control.Refused(fmt.Errorf("release %d is here already", asked), "`moult status` shows how far it is")}
	case known:
		return nil // only signed, or handed over without an order
	case m.Version <= head:
		return control.Refused(fmt.Errorf("release %d is older than release %d, which is here", m.Version, head), "build the next release on top of that")
	case head != 0 && m.Version != head+1:
		return control.Refused(fmt.Errorf("release %d skips: the newest here is %d", m.Version, head), fmt.Sprintf("inject release %d first", head+1))
	}
	if previous, ok := inForce.Release(head); ok && m.Previous != previous.Digest {
		return control.Refused(fmt.Errorf("release %d follows another release %d than the one here", m.Version, head), "build it on top of the release that was injected")
	}
	return nil
}

// CheckRehearsal reports why a bundle must not be rehearsed where inForce is in force and a
// node runs version running. Unlike CheckRelease it takes what is here already, and what
// skips numbers: nothing comes into force by it.
func CheckRehearsal(firstRoot []byte, inForce *trust.Verified, b *archive.Bundle, running bundle.Version) error {
	m := b.Head()
	if ns := trust.Conflicts(inForce, b.Trust()); len(ns) > 0 {
		return control.Refused(fmt.Errorf("release %d is known here with other content: both are signed", ns[0]), "build the next release on top of the right one")
	}
	_, err := trust.Verify(firstRoot, inForce, b.Trust().Set())
	if errors.Is(err, trust.ErrRollback) && b.Trust().Versions().Root == inForce.Versions().Root {
		err = nil // its roots are ours (parted ones are ErrUntrusted), and somebody has signed since
	}
	if err != nil {
		return Refusal(err)
	}
	if before, known := inForce.Release(m.Version - 1); known && m.Previous != before.Digest {
		return control.Refused(fmt.Errorf("release %d follows another release %d than the one here", m.Version, m.Version-1), "build it on top of the release that was injected")
	}
	if m.Version <= running {
		return control.Refused(fmt.Errorf("the bundle has release %d, and this node runs version %d", m.Version, running), "rehearse a newer release")
	}
	return nil
}

// CheckPlatforms refuses a release that no node of some class could run: a
// mistake in packing, better found before it spreads. nodes has the platforms
// of the nodes of each class.
func CheckPlatforms(m *bundle.Manifest, nodes map[bundle.Class][]bundle.Platform) error {
	for class, cu := range m.Classes {
		needed := nodes[class]
		var offered []bundle.Platform
		usable := len(needed) == 0
		for _, art := range cu.Artifacts {
			offered = append(offered, art.Platform)
			usable = usable || slices.Contains(needed, art.Platform)
		}
		if !usable {
			return control.Refused(fmt.Errorf("release %d has class %s for %s only, and its nodes run on %s", m.Version, class, platformNames(offered), platformNames(needed)),
				"add an artifact block for that platform to the release spec, and build again")
		}
	}
	return nil
}

// Doubts tells what about a release does not fit the nodes that an agent knows: classes
// that none of them is of, and versions to start from that none of them is at. They may
// come later, so it refuses nothing.
func Doubts(m *bundle.Manifest, status control.Status) (texts []string) {
	newest := map[bundle.Class]bundle.Version{}
	at := map[bundle.Class]map[bundle.Version]bool{}
	for _, n := range status.Nodes {
		if n.Standing != "" {
			continue
		}
		newest[n.Class] = max(newest[n.Class], n.Version)
		if at[n.Class] == nil {
			at[n.Class] = map[bundle.Version]bool{}
		}
		at[n.Class][n.Version] = true
	}
	if c, ok := m.Classes[status.Local.Class]; ok && c.Placeholders {
		for _, name := range slices.Compact(slices.Sorted(slices.Values(placeholder.VarsOf(slices.Concat(c.Command, c.Health.Exec))))) {
			if !slices.Contains(status.Local.Vars, name) {
				texts = append(texts, fmt.Sprintf("node %s has no %s, so it will not go down for release %d: say vars = { %s = \"…\" } in its agent.hcl and restart its agent; of other nodes this agent does not know",
					status.Local.Name, placeholder.Of(placeholder.Vars+name), m.Version, name))
			}
		}
	}
	if text := withoutAgent(m, status); text != "" {
		texts = append(texts, text)
	}
	for _, class := range slices.Sorted(maps.Keys(m.Classes)) {
		switch from := m.Classes[class].From; {
		case len(at[class]) == 0:
			texts = append(texts, fmt.Sprintf("no node of class %s is known to this agent", class))
		case from == 0 && newest[class] > 0:
			texts = append(texts, fmt.Sprintf("release %d installs class %s (it has no from), and nodes of it run already, the newest at version %d", m.Version, class, newest[class]))
		case from != 0 && !at[class][from] && status.Release.Back() && status.Release.Version == from:
			texts = append(texts, fmt.Sprintf("release %d is taken back: nodes of class %s pass its transform again on their way to release %d, and start only that one's software", from, class, m.Version))
		case from != 0 && !at[class][from]:
			texts = append(texts, fmt.Sprintf("release %d takes class %s from version %d, and no node of it is at that: the newest is at version %d", m.Version, class, from, newest[class]))
		}
	}
	return texts
}

// withoutAgent names the nodes that keep their agents, since the one that a release brings is not
// there for their platforms; "" for none.
func withoutAgent(m *bundle.Manifest, status control.Status) string {
	var names []string
	for _, n := range status.Nodes {
		if _, ok := m.Agent.Artifact(n.Platform); m.Agent != nil && !ok && n.Standing == "" && n.Platform != (bundle.Platform{}) {
			names = append(names, fmt.Sprintf("%s (%s)", n.Name, n.Platform))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("the agent of release %d is not for the platforms of %s, which keep theirs", m.Version, named(names))
}

// withMembers tells that who belongs to the cluster changes with what is handed over.
const withMembers = "with it goes a change of who belongs to the cluster that was signed before: see `moult member list`"

// signedNow takes out of what goes beside an order that who belongs does, since that is what
// was signed just now.
func signedNow(besides []string) []string {
	return slices.DeleteFunc(besides, func(text string) bool { return text == withMembers })
}

// besides tells what the cluster hears of beside release n and its order when the
// metadata now, signed on top of before, are handed over.
func besides(before, now *trust.Verified, n bundle.Version) (texts []string) {
	var built, ordered []bundle.Version
	for _, v := range now.Releases() {
		if _, known := before.Release(v); !known && v != n {
			built = append(built, v)
		}
	}
	for _, v := range now.Orders() {
		ref, _ := now.Order(v)
		if old, _ := before.Order(v); old != ref && v != n {
			ordered = append(ordered, v)
		}
	}
	for _, v := range built {
		texts = append(texts, fmt.Sprintf("with it the cluster hears that release %d is signed: inject its bundle when it is to be rolled out", v))
	}
	for _, v := range ordered {
		texts = append(texts, fmt.Sprintf("with it goes an order of release %d that was signed before", v))
	}
	if a, _ := before.Members(); !a.Same(now) {
		texts = append(texts, withMembers)
	}
	if len(now.Set().Roots) > len(before.Set().Roots) {
		texts = append(texts, "with it go the keys that were replaced since")
	}
	return texts
}

// platformNames lists platforms, each once.
func platformNames(ps []bundle.Platform) string {
	var names []string
	for _, p := range ps {
		names = append(names, p.String())
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}
