package trust

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"moult/store/bundle"
)

// ErrFastForward is version numbers, by keys that are no longer in force, far above
// all that the keys in force have signed.
var ErrFastForward = errors.New("version numbers run ahead by keys that were replaced")

// Conflicts lists the release numbers, lowest first, for which a and b, both
// validly signed, have different manifests (P3): the publisher's key signed
// twice. The two sets are the evidence. Either may be nil.
//
// Only keys in force are evidence against their holder: those of the newest root of
// the two, or of a's where the chains of roots part. What was signed by a key that has
// been replaced since proves nothing, for that may be why it was replaced.
func Conflicts(a, b *Verified) []bundle.Version {
	if a == nil || b == nil {
		return nil
	}
	if root := newestRoot(a, b); root == nil || !publishes(root, a) || !publishes(root, b) {
		return nil
	}
	var ns []bundle.Version
	for _, n := range a.Releases() {
		if other, ok := b.releases[n]; ok && other != a.releases[n] {
			ns = append(ns, n)
		}
	}
	return ns
}

// Thaws reports whether next, which replaces prev, has done away with the keys that
// signed prev's releases: then what was signed before is no evidence against what next
// says.
func Thaws(prev, next *Verified) bool {
	if prev == nil || len(prev.set.Targets) == 0 {
		return false
	}
	root := newestRoot(next)
	return root != nil && !publishes(root, prev)
}

// newestRoot returns the last root of the longest chain among those that go on from
// the first's; nil where it cannot be read, which verified sets' can.
func newestRoot(vs ...*Verified) *metadata.Metadata[metadata.RootType] {
	roots := vs[0].set.Roots
	for _, v := range vs[1:] {
		if n := len(roots); len(v.set.Roots) > n && bytes.Equal(v.set.Roots[n-1], roots[n-1]) {
			roots = v.set.Roots
		}
	}
	root, err := decodeRoot(len(roots), roots[len(roots)-1])
	if err != nil {
		return nil
	}
	return root
}

// publishes reports whether the publisher's keys of a root vouch for v's releases.
func publishes(root *metadata.Metadata[metadata.RootType], v *Verified) bool {
	m, err := metadataTargets(targetsFile, v.set.Targets)
	return err == nil && m != nil && root.VerifyDelegate(metadata.TARGETS, m) == nil
}

// checkJump reports ErrFastForward where a set's version numbers, by keys that are no
// longer in force, lie far above those of mine and of sets by keys in force: to sign
// above them may use up what numbers there are.
func checkJump(mine *Verified, others []*Verified) error {
	root := newestRoot(append([]*Verified{mine}, others...)...)
	if root == nil {
		return fmt.Errorf("%w: the newest root cannot be read", ErrMalformed)
	}
	known := mine.versions
	var foreign []*Verified
	for _, v := range others {
		if byKeysInForce(root, v) {
			known = known.Max(v.versions)
		} else {
			foreign = append(foreign, v)
		}
	}
	for _, v := range foreign {
		if got, most := v.versions.highest(), known.highest()+maxJump; got > most {
			return fmt.Errorf("%w: up to %d, where the keys in force have signed up to %d, and %d is the last number there is", ErrFastForward, got, known.highest(), int64(MaxMetadataVersion))
		}
	}
	return nil
}

// byKeysInForce reports whether the keys of a root vouch for every file of v. The
// operator's are those that v's own targets name, which the publisher vouches for.
func byKeysInForce(root *metadata.Metadata[metadata.RootType], v *Verified) bool {
	if v.set.bare() {
		return true
	}
	snapshot, err1 := decode[metadata.SnapshotType](snapshotFile, v.set.Snapshot)
	timestamp, err2 := decode[metadata.TimestampType](timestampFile, v.set.Timestamp)
	return err1 == nil && err2 == nil && publishes(root, v) &&
		root.VerifyDelegate(metadata.SNAPSHOT, snapshot) == nil && root.VerifyDelegate(metadata.TIMESTAMP, timestamp) == nil
}

// highest returns the greatest of the versions of the files.
func (v Versions) highest() int64 {
	return max(v.Timestamp, v.Snapshot, v.Targets, v.Operator)
}
