package trust

import (
	"fmt"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"moult/store/bundle"
)

// Absorb takes over what others have signed: sets seen at a peer or in a
// bundle. Afterwards the metadata in force supersedes all of them and what was
// in force before.
//
// Where one of them does so already, Absorb takes that one and signs nothing.
// Otherwise both sides have news, such as a release signed elsewhere and an
// order signed here: it takes the newest targets and the newest operator file
// as they are, and signs snapshot and timestamp above all, with the publisher's
// or the operator's key (ErrNoKey without either). Only where no one file has
// all the documents does it sign that file too, and needs its key.
//
// Two different orders for one release, signed by two operators at the same
// version, are no evidence of anything but haste: the absorbed one wins, for it
// is what peers have, and the operator signs its successor. Two manifests for
// one release are ErrConflict, and the folder stays as it is. So it does with
// ErrFastForward, until an operator has confirmed it (AbsorbJump).
func (f *Folder) Absorb(sets ...Set) (*Verified, error) { return f.absorb(sets, false) }

// AbsorbJump is Absorb for an operator who has seen ErrFastForward, and confirms that
// what is signed from now on shall stand above those version numbers: peers that have
// taken them take nothing below.
func (f *Folder) AbsorbJump(sets ...Set) (*Verified, error) { return f.absorb(sets, true) }

func (f *Folder) absorb(sets []Set, jump bool) (*Verified, error) {
	all := []*Verified{f.current}
	for _, s := range sets {
		v, err := Verify(f.first, nil, s)
		if err != nil {
			return nil, fmt.Errorf("take over trust metadata: %w", err)
		}
		all = append(all, v)
	}
	for i, a := range all {
		for _, b := range all[:i] {
			if ns := Conflicts(a, b); len(ns) > 0 {
				n := ns[0]
				return nil, fmt.Errorf("take over trust metadata: %w: release %d was signed with manifest %s and with %s: publish the next number, and find out who signed both",
					ErrConflict, n, a.releases[n].Digest.Short(), b.releases[n].Digest.Short())
			}
		}
	}
	if err := checkJump(f.current, all[1:]); err != nil && !jump {
		return nil, fmt.Errorf("take over trust metadata: %w", err)
	}
	for _, v := range all {
		if supersedesAll(v, all) {
			if v.digest == f.current.digest {
				return f.current, nil
			}
			return v, f.commit(v)
		}
	}
	v, err := f.merge(all)
	if err != nil {
		return nil, fmt.Errorf("take over trust metadata: %w", err)
	}
	return v, f.commit(v)
}

func supersedesAll(v *Verified, all []*Verified) bool {
	for _, old := range all {
		if old.digest != v.digest && (!Newer(old, v) || succeeds(old, v) != nil) {
			return false
		}
	}
	return true
}

// merge signs one set above all, none of which supersedes all others.
func (f *Folder) merge(all []*Verified) (*Verified, error) {
	const purpose = "put together what different people have signed"
	roots := all[0].set.Roots
	for _, v := range all {
		if len(v.set.Roots) > len(roots) {
			roots = v.set.Roots
		}
	}
	root, err := decodeRoot(len(roots), roots[len(roots)-1])
	if err != nil {
		return nil, err
	}
	d := draft{purpose: purpose, roots: roots, over: all}
	if d.targets, err = f.mergeTargets(purpose, root, all); err != nil {
		return nil, err
	}
	targets, err := decode[metadata.TargetsType](targetsFile, d.targets)
	if err != nil {
		return nil, err
	}
	if d.operator, err = f.mergeOrders(purpose, targets, all); err != nil {
		return nil, err
	}
	return f.sign(d)
}

// candidate is one set's version of a file.
type candidate struct {
	data    []byte
	version int64
	docs    map[bundle.Version]Ref
	members Members // zero for none
}

// choose returns the first candidate that has the highest version of all and
// every document of all; else ok is false and union has every document, a
// document of the first candidate winning over others of its number.
// Candidates are in order of preference.
func choose(cs []candidate, highest int64) (chosen, union candidate, ok bool) {
	union = candidate{data: cs[0].data, version: highest + 1, docs: map[bundle.Version]Ref{}}
	for _, c := range cs {
		if c.members.Serial > union.members.Serial {
			union.members = c.members
		}
		for n, ref := range c.docs {
			if _, known := union.docs[n]; !known {
				union.docs[n] = ref
			}
		}
	}
	for _, c := range cs {
		if c.version == highest && len(c.docs) == len(union.docs) && c.members == union.members {
			return c, union, true
		}
	}
	return candidate{}, union, false
}

// prefer orders candidates: higher versions first; of one version the later
// absorbed first, which all lists last.
func prefer(cs []candidate) []candidate {
	slices.Reverse(cs)
	slices.SortStableFunc(cs, func(a, b candidate) int { return int(max(-1, min(1, b.version-a.version))) })
	return cs
}

func (f *Folder) mergeTargets(purpose string, root *metadata.Metadata[metadata.RootType], all []*Verified) ([]byte, error) {
	var cs []candidate
	var highest int64
	for _, v := range all {
		highest = max(highest, v.versions.Targets)
		// A file by a revoked key does not count, nor do the releases that
		// only it has: nobody vouches for them any more.
		if publishes(root, v) {
			cs = append(cs, candidate{data: v.set.Targets, version: v.versions.Targets, docs: v.releases})
		}
	}
	if len(cs) == 0 {
		return nil, fmt.Errorf("%w: no %s is signed by the publisher key of root version %d: absorb the set that came with that root",
			ErrUntrusted, targetsFile, root.Signed.Version)
	}
	cs = prefer(cs)
	chosen, union, ok := choose(cs, highest)
	if ok {
		return chosen.data, nil
	}
	key, err := f.key(publisherKey, purpose, rootSigners(root, metadata.TARGETS))
	if err != nil {
		return nil, err
	}
	return f.signUnion(targetsFile, releasePrefix, union, key)
}

func (f *Folder) mergeOrders(purpose string, targets *metadata.Metadata[metadata.TargetsType], all []*Verified) ([]byte, error) {
	var cs []candidate
	var highest int64
	for _, v := range all {
		highest = max(highest, v.versions.Operator)
		m, err := metadataTargets(operatorFile, v.set.Operator)
		if err != nil {
			return nil, err
		}
		if m != nil && targets.VerifyDelegate(operatorRole, m) == nil {
			cs = append(cs, candidate{data: v.set.Operator, version: v.versions.Operator, docs: v.orders, members: v.members})
		}
	}
	if highest == 0 {
		return nil, nil
	}
	if len(cs) == 0 {
		return nil, fmt.Errorf("%w: no %s is signed by the operator key in force: absorb the set that came with that key", ErrUntrusted, operatorFile)
	}
	cs = prefer(cs)
	chosen, union, ok := choose(cs, highest)
	// That a key was replaced must not open a ring that is closed, so who belongs to it is
	// taken over from what that key has signed, too, where there is nothing newer.
	for _, v := range all {
		if v.members.Serial > union.members.Serial {
			union.members, ok = v.members, false
		}
	}
	if ok {
		return chosen.data, nil
	}
	key, err := f.key(operatorKey, purpose, delegatedSigners(targets))
	if err != nil {
		return nil, err
	}
	return f.signUnion(operatorFile, orderPrefix, union, key)
}

// metadataTargets decodes a targets or operator file; nil for none.
func metadataTargets(name string, data []byte) (*metadata.Metadata[metadata.TargetsType], error) {
	if len(data) == 0 {
		return nil, nil
	}
	return decode[metadata.TargetsType](name, data)
}

// signUnion signs a file anew with all documents.
func (f *Folder) signUnion(name, prefix string, union candidate, key *signingKey) ([]byte, error) {
	m, err := decode[metadata.TargetsType](name, union.data)
	if err != nil {
		return nil, err
	}
	m.Signed.Version = union.version
	m.Signed.Expires = f.expiry()
	clear(m.Signed.Targets)
	for n, ref := range union.docs {
		m.Signed.Targets[documentPath(prefix, n)] = target(ref)
	}
	if union.members.Serial != 0 {
		m.Signed.Targets[documentPath(membersPrefix, bundle.Version(union.members.Serial))] = target(union.members.Ref)
	}
	return signFile(m, key)
}
