package trust

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"moult/store/bundle"
)

// Set returns a copy of the metadata files.
func (v *Verified) Set() Set { return v.set.clone() }

// Cluster identifies the cluster: the digest of its first root.
func (v *Verified) Cluster() bundle.Digest { return v.cluster }

// Versions returns the versions of the files.
func (v *Verified) Versions() Versions { return v.versions }

// Digest is the digest of the set's encoding (Set.Marshal).
func (v *Verified) Digest() bundle.Digest { return v.digest }

// Head is the newest release, 0 before the first.
func (v *Verified) Head() bundle.Version { return v.head }

// Release returns the manifest of release n.
func (v *Verified) Release(n bundle.Version) (Ref, bool) {
	r, ok := v.releases[n]
	return r, ok
}

// Releases returns every release, oldest first: an unbroken run that ends at Head.
func (v *Verified) Releases() []bundle.Version { return sortedVersions(v.releases) }

// Order returns the rollout order in force for release n.
func (v *Verified) Order(n bundle.Version) (Ref, bool) {
	r, ok := v.orders[n]
	return r, ok
}

// Orders returns every release that has a rollout order, oldest first.
func (v *Verified) Orders() []bundle.Version { return sortedVersions(v.orders) }

// Members names the document of who belongs to the cluster. Its serial rises with each that
// is signed; 0: there is none.
type Members struct {
	Ref
	Serial uint64
}

// Same reports whether v names the same document.
func (m Members) Same(v *Verified) bool { return m == v.members }

// Members returns the document of who belongs to the cluster, if the operator has ever
// signed one.
func (v *Verified) Members() (Members, bool) { return v.members, v.members.Serial != 0 }

// Publishers returns the IDs of the keys that signed the releases, Operators of those that
// signed the orders and who belongs to the cluster. Each counts.
func (v *Verified) Publishers() []string { return slices.Clone(v.by.publisher) }

// Operators: see Publishers.
func (v *Verified) Operators() []string { return slices.Clone(v.by.operator) }

// Expires is when the first of the files in force expires: from then on nothing
// new starts until somebody signs again.
func (v *Verified) Expires() time.Time {
	if len(v.set.Timestamp) > 0 && v.fresh.Before(v.expires) {
		return v.fresh
	}
	return v.expires
}

// Lasts is Expires apart from the timestamp, which may be meant to be signed anew every few
// hours.
func (v *Verified) Lasts() time.Time { return v.expires }

// Expired reports whether now lies after Expires.
func (v *Verified) Expired(now time.Time) bool { return now.After(v.Expires()) }

// CheckFloor reports ErrRollback when v lies below versions that the peer has
// seen before, as its durable floor remembers them.
func (v *Verified) CheckFloor(floor Versions) error { return v.versions.Check(floor) }

// succeeds reports why next must not replace prev, as ErrRollback or, where the
// two chains of roots part, as ErrUntrusted. It is the rollback rule of the TUF
// specification (5.4.3, 5.5.5), and that documents are never taken back. The chains come
// first: the numbers of one that parts from ours say nothing.
func succeeds(prev, next *Verified) error {
	for i := range min(len(prev.set.Roots), len(next.set.Roots)) {
		if !bytes.Equal(prev.set.Roots[i], next.set.Roots[i]) {
			return fmt.Errorf("%w: %s differs from the one that is known: its chain of roots parts from ours", ErrUntrusted, rootName(i+1))
		}
	}
	if err := next.versions.Check(prev.versions); err != nil {
		return err
	}
	for _, n := range prev.Releases() {
		if _, ok := next.releases[n]; !ok {
			return fmt.Errorf("%w: release %d is known, but the newer %s lacks it", ErrRollback, n, targetsFile)
		}
	}
	for _, n := range prev.Orders() {
		if _, ok := next.orders[n]; !ok {
			return fmt.Errorf("%w: a rollout order for release %d is known, but the newer %s lacks it", ErrRollback, n, operatorFile)
		}
	}
	if next.members.Serial < prev.members.Serial {
		return fmt.Errorf("%w: who belongs to the cluster is known as of serial %d, and the newer %s names serial %d", ErrRollback, prev.members.Serial, operatorFile, next.members.Serial)
	}
	return nil
}

// Newer reports whether b should replace a: it has a greater timestamp version.
// Equal versions with different digests are a fork: somebody signed twice from
// the same state. Then it is false both ways, and the caller should raise an
// alarm; the next set that is signed above both ends it. Either may be nil.
//
// Newer does not verify: b must have come from Verify with a as prev.
func Newer(a, b *Verified) bool {
	if a == nil || b == nil {
		return b != nil
	}
	return b.versions.Timestamp > a.versions.Timestamp
}
