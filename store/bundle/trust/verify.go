package trust

import (
	"bytes"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"moult/store/bundle"
)

// Verified is a Set that Verify has accepted. Only Verify and Genesis make one;
// it never changes, and is safe for concurrent use.
type Verified struct {
	set      Set
	digest   bundle.Digest
	cluster  bundle.Digest
	versions Versions
	releases map[bundle.Version]Ref
	orders   map[bundle.Version]Ref
	members  Members // zero for none
	head     bundle.Version
	fresh    time.Time // when the timestamp expires
	expires  time.Time // when the first of all others does
	// by has the IDs of the keys that signed the releases, and the orders and members.
	by struct{ publisher, operator []string }
}

// Verify runs the TUF client workflow over s, starting from the root that this
// peer was given at its first start, and refuses whatever is older than prev.
//
// Every signature present must verify, every file must be in the one form that
// moult writes, and the timestamp pins all other files, the root in force
// included, by hash: two sets with equal timestamps are equal. Releases form an
// unbroken run, and none that prev has is missing. Expiry is not looked at:
// expired metadata still tells what is known (see Expired).
//
// A release whose content differs from prev's is no error here but evidence
// (see Conflicts). A nil prev gives no rollback protection; use it to judge a
// set by itself, or on the first start, together with CheckFloor.
//
// Errors are ErrMalformed, ErrUntrusted or ErrRollback. Verify keeps no
// reference to its arguments' bytes.
func Verify(firstRoot []byte, prev *Verified, s Set) (*Verified, error) {
	if err := s.checkBounds(); err != nil {
		return nil, err
	}
	if !bytes.Equal(s.Roots[0], firstRoot) {
		return nil, fmt.Errorf("%w: it belongs to cluster %s and this is cluster %s",
			ErrUntrusted, bundle.Sum(s.Roots[0]).Short(), bundle.Sum(firstRoot).Short())
	}
	encoded, err := s.Marshal()
	if err != nil {
		return nil, err
	}
	v := &Verified{set: s.clone(), cluster: bundle.Sum(firstRoot), digest: bundle.Sum(encoded)}
	tm, err := v.verifyRoots()
	if err != nil {
		return nil, err
	}
	if !s.bare() {
		if err := v.verifyFiles(tm); err != nil {
			return nil, err
		}
		if got, last := v.versions.highest(), v.versions.Root*numbersPerRoot; got > last {
			return nil, fmt.Errorf("%w: version %d, where %d is the last one under root version %d: only a new root has more (`moult trust rotate --role publisher`, or operator)", ErrMalformed, got, last, v.versions.Root)
		}
	}
	if prev != nil {
		if err := succeeds(prev, v); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Genesis is what a peer knows before it has heard anything: its first root,
// no releases. It equals Verify of a Set that has this root only.
func Genesis(firstRoot []byte) (*Verified, error) {
	return Verify(firstRoot, nil, Set{Roots: [][]byte{firstRoot}})
}

// verifyRoots walks the chain: each root is signed by a threshold of its
// predecessor's keys and of its own (TUF specification, 5.3).
func (v *Verified) verifyRoots() (*trustedmetadata.TrustedMetadata, error) {
	first, err := decodeRoot(1, v.set.Roots[0])
	if err != nil {
		return nil, err
	}
	if first.Signed.Version != 1 {
		return nil, fmt.Errorf("%w: the first root has version %d, want 1", ErrUntrusted, first.Signed.Version)
	}
	tm, err := trustedmetadata.New(v.set.Roots[0])
	if err != nil {
		return nil, untrusted(rootName(1), err)
	}
	if err := checkSignatures(rootName(1), metadata.ROOT, first, rootSigners(first, metadata.ROOT)); err != nil {
		return nil, err
	}
	// The zero time lies before every expiry: knowing must not depend on a clock.
	tm.RefTime = time.Time{}
	for i, data := range v.set.Roots[1:] {
		name := rootName(i + 2)
		root, err := decodeRoot(i+2, data)
		if err != nil {
			return nil, err
		}
		signers := rootSigners(tm.Root, metadata.ROOT)
		for id, k := range rootSigners(root, metadata.ROOT) {
			signers[id] = k
		}
		if _, err := tm.UpdateRoot(data); err != nil {
			return nil, untrusted(name, err)
		}
		if err := checkSignatures(name, metadata.ROOT, root, signers); err != nil {
			return nil, err
		}
	}
	v.versions.Root = tm.Root.Signed.Version
	v.expires = tm.Root.Signed.Expires
	return tm, nil
}

// verifyFiles goes on from the root in force to timestamp, snapshot, targets
// and operator (TUF specification, 5.4 to 5.6). Each file is hashed against
// its pin before it is decoded, except the timestamp, which is small.
func (v *Verified) verifyFiles(tm *trustedmetadata.TrustedMetadata) error {
	if err := v.verifyTimestamp(tm); err != nil {
		return err
	}
	if err := v.verifySnapshot(tm); err != nil {
		return err
	}
	if err := v.verifyTargets(tm); err != nil {
		return err
	}
	if len(v.set.Operator) == 0 {
		return nil
	}
	return v.verifyOperator(tm)
}

func (v *Verified) verifyTimestamp(tm *trustedmetadata.TrustedMetadata) error {
	m, err := decode[metadata.TimestampType](timestampFile, v.set.Timestamp)
	if err != nil {
		return err
	}
	if err := checkPins(timestampFile, m.Signed.Meta, snapshotFile); err != nil {
		return err
	}
	if _, err := tm.UpdateTimestamp(v.set.Timestamp); err != nil {
		return untrusted(timestampFile, err)
	}
	v.versions.Timestamp, v.fresh = m.Signed.Version, m.Signed.Expires
	return checkSignatures(timestampFile, metadata.TIMESTAMP, m, rootSigners(tm.Root, metadata.TIMESTAMP))
}

func (v *Verified) verifySnapshot(tm *trustedmetadata.TrustedMetadata) error {
	if err := tm.Timestamp.Signed.Meta[snapshotFile].VerifyLengthHashes(v.set.Snapshot); err != nil {
		return untrusted(snapshotFile, err)
	}
	m, err := decode[metadata.SnapshotType](snapshotFile, v.set.Snapshot)
	if err != nil {
		return err
	}
	files := []string{rootFile, targetsFile}
	if len(v.set.Operator) > 0 {
		files = append(files, operatorFile)
	}
	if err := checkPins(snapshotFile, m.Signed.Meta, files...); err != nil {
		return err
	}
	if _, err := tm.UpdateSnapshot(v.set.Snapshot, false); err != nil {
		return untrusted(snapshotFile, err)
	}
	// Pinning the root, as early TUF did, keeps a peer that hides the newest
	// root (and so a revocation) from making another valid set of the rest.
	pin := m.Signed.Meta[rootFile]
	if err := pin.VerifyLengthHashes(v.set.lastRoot()); err != nil {
		return untrusted(rootFile, err)
	}
	if pin.Version != v.versions.Root {
		return fmt.Errorf("%w: %s is of root version %d, the chain ends at %d", ErrUntrusted, snapshotFile, pin.Version, v.versions.Root)
	}
	v.versions.Snapshot = m.Signed.Version
	v.expiresBy(m.Signed.Expires)
	return checkSignatures(snapshotFile, metadata.SNAPSHOT, m, rootSigners(tm.Root, metadata.SNAPSHOT))
}

func (v *Verified) verifyTargets(tm *trustedmetadata.TrustedMetadata) error {
	if err := tm.Snapshot.Signed.Meta[targetsFile].VerifyLengthHashes(v.set.Targets); err != nil {
		return untrusted(targetsFile, err)
	}
	m, err := decode[metadata.TargetsType](targetsFile, v.set.Targets)
	if err != nil {
		return err
	}
	if err := checkDelegation(&m.Signed); err != nil {
		return err
	}
	if _, err := tm.UpdateTargets(v.set.Targets); err != nil {
		return untrusted(targetsFile, err)
	}
	if err := checkSignatures(targetsFile, metadata.TARGETS, m, rootSigners(tm.Root, metadata.TARGETS)); err != nil {
		return err
	}
	v.by.publisher = keyIDs(m)
	if v.releases, err = documents(targetsFile, &m.Signed, releasePrefix, maxReleaseBytes); err != nil {
		return err
	}
	run := sortedVersions(v.releases)
	if n := len(run); n > 0 {
		v.head = run[n-1]
		if got := uint64(v.head-run[0]) + 1; got != uint64(n) {
			return fmt.Errorf("%w: %s: %d releases from %d to %d: some are missing between", ErrMalformed, targetsFile, n, run[0], v.head)
		}
	}
	v.versions.Targets = m.Signed.Version
	v.expiresBy(m.Signed.Expires)
	return nil
}

func (v *Verified) verifyOperator(tm *trustedmetadata.TrustedMetadata) error {
	if err := tm.Snapshot.Signed.Meta[operatorFile].VerifyLengthHashes(v.set.Operator); err != nil {
		return untrusted(operatorFile, err)
	}
	m, err := decode[metadata.TargetsType](operatorFile, v.set.Operator)
	if err != nil {
		return err
	}
	if m.Signed.Delegations != nil {
		return fmt.Errorf("%w: %s: delegates on, which it may not", ErrMalformed, operatorFile)
	}
	if _, err := tm.UpdateDelegatedTargets(v.set.Operator, operatorRole, metadata.TARGETS); err != nil {
		return untrusted(operatorFile, err)
	}
	if err := checkSignatures(operatorFile, operatorRole, m, delegatedSigners(tm.Targets[metadata.TARGETS])); err != nil {
		return err
	}
	v.by.operator = keyIDs(m)
	if v.orders, err = documents(operatorFile, &m.Signed, orderPrefix, MaxOrderBytes); err != nil {
		return err
	}
	if v.members, err = membersOf(&m.Signed); err != nil {
		return err
	}
	for n := range v.orders {
		if _, ok := v.releases[n]; !ok {
			return fmt.Errorf("%w: %s: an order for release %d, which %s does not have", ErrMalformed, operatorFile, n, targetsFile)
		}
	}
	v.versions.Operator = m.Signed.Version
	v.expiresBy(m.Signed.Expires)
	return nil
}

func (v *Verified) expiresBy(t time.Time) {
	if t.Before(v.expires) {
		v.expires = t
	}
}

// untrusted names the file that go-tuf refused.
func untrusted(name string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrUntrusted, name, err)
}

// keyIDs are those of the keys that signed a file.
func keyIDs[T metadata.Roles](m *metadata.Metadata[T]) (ids []string) {
	for _, s := range m.Signatures {
		ids = append(ids, s.KeyID)
	}
	return ids
}

// signers are the keys that may sign a file, by key ID.
type signers map[string]*metadata.Key

func rootSigners(root *metadata.Metadata[metadata.RootType], role string) signers {
	s := signers{}
	for _, id := range root.Signed.Roles[role].KeyIDs {
		s[id] = root.Signed.Keys[id]
	}
	return s
}

// delegatedSigners returns the operator's keys; checkDelegation has seen targets.
func delegatedSigners(targets *metadata.Metadata[metadata.TargetsType]) signers {
	s := signers{}
	for _, id := range targets.Signed.Delegations.Roles[0].KeyIDs {
		s[id] = targets.Signed.Delegations.Keys[id]
	}
	return s
}

// checkSignatures refuses a file with any signature that does not count. TUF
// ignores those, but then anybody could append one and make other bytes of a
// valid file; peers compare files by digest.
func checkSignatures[T metadata.Roles](name, role string, m *metadata.Metadata[T], allowed signers) error {
	for _, sig := range m.Signatures {
		k, ok := allowed[sig.KeyID]
		if !ok {
			return fmt.Errorf("%w: %s: a signature by key %.64q, which may not sign it", ErrUntrusted, name, sig.KeyID)
		}
		one := &metadata.Metadata[T]{Signed: m.Signed, Signatures: []metadata.Signature{sig}}
		var delegator metadata.Metadata[metadata.RootType]
		delegator.Signed.Keys = map[string]*metadata.Key{sig.KeyID: k}
		delegator.Signed.Roles = map[string]*metadata.Role{role: {KeyIDs: []string{sig.KeyID}, Threshold: 1}}
		if err := delegator.VerifyDelegate(role, one); err != nil {
			return fmt.Errorf("%w: %s: a wrong signature by key %.12s", ErrUntrusted, name, sig.KeyID)
		}
	}
	return nil
}
