package trust

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"moult/store/bundle"
)

// signFile replaces the signatures of m and returns its one form of bytes.
func signFile[T metadata.Roles](m *metadata.Metadata[T], keys ...*signingKey) ([]byte, error) {
	m.Signatures = []metadata.Signature{}
	for _, k := range keys {
		if _, err := m.Sign(k.signer); err != nil {
			return nil, fmt.Errorf("sign with key %.12s: %w", k.id, err)
		}
	}
	slices.SortFunc(m.Signatures, func(a, b metadata.Signature) int { return cmp.Compare(a.KeyID, b.KeyID) })
	return m.ToBytes(false)
}

// pin names a file by version, length and hash.
func pin(version int64, data []byte) *metadata.MetaFiles {
	sum := bundle.Sum(data)
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

// target names a document by length and hash.
func target(r Ref) *metadata.TargetFiles {
	return &metadata.TargetFiles{Length: r.Length, Hashes: metadata.Hashes{"sha256": r.Digest[:]}}
}

// targetsVersion reads the version of a targets or operator file that has been
// decoded before.
func targetsVersion(name string, data []byte) (int64, error) {
	m, err := decode[metadata.TargetsType](name, data)
	if err != nil {
		return 0, err
	}
	return m.Signed.Version, nil
}

// draft is metadata that wants a snapshot and a timestamp.
type draft struct {
	purpose           string // for errors: "to …"
	roots             [][]byte
	targets, operator []byte
	online            *signingKey // nil: the publisher's or the operator's
	over              []*Verified // what the outcome must supersede
}

// sign signs snapshot and timestamp above everything in d.over, and verifies
// the outcome as a peer would: a folder never publishes what peers refuse.
func (f *Folder) sign(d draft) (*Verified, error) {
	root, err := decodeRoot(len(d.roots), d.roots[len(d.roots)-1])
	if err != nil {
		return nil, err
	}
	key := d.online
	if key == nil {
		if key, err = f.onlineKey(d.purpose, root); err != nil {
			return nil, err
		}
	}
	var above Versions
	for _, v := range d.over {
		above = above.Max(v.versions)
	}
	set := Set{Roots: d.roots, Targets: d.targets, Operator: d.operator}
	if set.Snapshot, err = f.signSnapshot(set, above.Snapshot+1, key); err != nil {
		return nil, err
	}
	ts := metadata.Timestamp(f.freshUntil())
	ts.Signed.Version = above.Timestamp + 1
	ts.Signed.Meta = map[string]*metadata.MetaFiles{snapshotFile: pin(above.Snapshot+1, set.Snapshot)}
	if set.Timestamp, err = signFile(ts, key); err != nil {
		return nil, err
	}
	v, err := Verify(f.first, nil, set)
	if err != nil {
		return nil, fmt.Errorf("%s: what this folder would sign is no good: %w", d.purpose, err)
	}
	for _, old := range d.over {
		if err := succeeds(old, v); err != nil {
			return nil, fmt.Errorf("%s: what this folder would sign does not supersede what is in force: %w", d.purpose, err)
		}
	}
	return v, nil
}

func (f *Folder) signSnapshot(set Set, version int64, key *signingKey) ([]byte, error) {
	m := metadata.Snapshot(f.expiry())
	m.Signed.Version = version
	v, err := targetsVersion(targetsFile, set.Targets)
	if err != nil {
		return nil, err
	}
	m.Signed.Meta = map[string]*metadata.MetaFiles{
		rootFile:    pin(int64(len(set.Roots)), set.lastRoot()),
		targetsFile: pin(v, set.Targets),
	}
	if len(set.Operator) > 0 {
		if v, err = targetsVersion(operatorFile, set.Operator); err != nil {
			return nil, err
		}
		m.Signed.Meta[operatorFile] = pin(v, set.Operator)
	}
	return signFile(m, key)
}

// publish signs d over what is in force and makes it this folder's metadata.
func (f *Folder) publish(d draft) error {
	if f.current != nil {
		d.over = append(d.over, f.current)
	}
	v, err := f.sign(d)
	if err != nil {
		return err
	}
	return f.commit(v)
}

// freshUntil is when a timestamp made now expires.
func (f *Folder) freshUntil() time.Time {
	if fresh := f.settings.Fresh; fresh != 0 && fresh < f.settings.Expires {
		return f.now.Add(time.Duration(fresh)).UTC().Truncate(time.Second)
	}
	return f.expiry()
}

// expiry is when a signature made now expires. TUF counts whole seconds.
func (f *Folder) expiry() time.Time {
	return f.now.Add(time.Duration(f.settings.Expires)).UTC().Truncate(time.Second)
}

// root decodes the root in force.
func (f *Folder) root() (*metadata.Metadata[metadata.RootType], error) {
	return decodeRoot(len(f.current.set.Roots), f.current.set.lastRoot())
}

// targets decodes the targets in force, ready for a change: the next version,
// with a new expiry.
func (f *Folder) targets() (*metadata.Metadata[metadata.TargetsType], error) {
	m, err := decode[metadata.TargetsType](targetsFile, f.current.set.Targets)
	if err != nil {
		return nil, err
	}
	m.Signed.Version++
	m.Signed.Expires = f.expiry()
	return m, nil
}

// operator does the same for the operator's file, which begins empty.
func (f *Folder) operator() (*metadata.Metadata[metadata.TargetsType], error) {
	if len(f.current.set.Operator) == 0 {
		return metadata.Targets(f.expiry()), nil
	}
	m, err := decode[metadata.TargetsType](operatorFile, f.current.set.Operator)
	if err != nil {
		return nil, err
	}
	m.Signed.Version++
	m.Signed.Expires = f.expiry()
	return m, nil
}

// rootLeft is how long a root is good at least that is not signed again, where files are
// signed for so long. Three quarters bound how many roots there are where that is short.
func rootLeft(expires time.Duration) time.Duration {
	return max(expires/2, min(ExpirySoon, expires/4*3))
}

// Refresh signs again, to expire after expires (0: as long as the folder was
// made for), each file whose key is here. What it could not sign keeps its
// expiry; see Verified.Expires. It needs the publisher's or the operator's key.
//
// The root is left alone while it is good for at least half of that time, and for as long as
// nobody is warned yet, since every peer keeps every root for ever (MaxRoots).
func (f *Folder) Refresh(expires time.Duration) error {
	if expires < 0 {
		return fmt.Errorf("refresh the trust metadata: it cannot expire after %s", expires)
	}
	old := f.settings
	defer func() { f.settings = old }()
	if expires > 0 {
		f.settings.Expires = bundle.Duration(expires)
	}
	const purpose = "refresh the trust metadata"
	root, err := f.root()
	if err != nil {
		return err
	}
	d := draft{purpose: purpose, roots: f.current.set.Roots, targets: f.current.set.Targets, operator: f.current.set.Operator}
	if root.Signed.Expires.After(f.now.Add(rootLeft(time.Duration(f.settings.Expires)))) {
		// Nothing to do for the root.
	} else if k, err := f.key(rootKey, purpose, rootSigners(root, metadata.ROOT)); err == nil {
		next, err := f.nextRoot(root, k)
		if err != nil {
			return err
		}
		d.roots = appendRoot(d.roots, next)
	} else if !errors.Is(err, ErrNoKey) {
		return err
	}
	t, err := f.targets()
	if err != nil {
		return err
	}
	if k, err := f.key(publisherKey, purpose, rootSigners(root, metadata.TARGETS)); err == nil {
		if d.targets, err = signFile(t, k); err != nil {
			return err
		}
	} else if !errors.Is(err, ErrNoKey) {
		return err
	}
	if k, err := f.key(operatorKey, purpose, delegatedSigners(t)); err == nil && len(d.operator) > 0 {
		o, err := f.operator()
		if err != nil {
			return err
		}
		if d.operator, err = signFile(o, k); err != nil {
			return err
		}
	} else if err != nil && !errors.Is(err, ErrNoKey) {
		return err
	}
	return f.publish(d)
}

// nextRoot signs root as the next version, with a new expiry.
func (f *Folder) nextRoot(root *metadata.Metadata[metadata.RootType], keys ...*signingKey) ([]byte, error) {
	if len(f.current.set.Roots) >= MaxRoots {
		return nil, fmt.Errorf("sign root version %d: a chain has at most %d roots; begin a new cluster with moult trust init", len(f.current.set.Roots)+1, MaxRoots)
	}
	root.Signed.Version++
	root.Signed.Expires = f.expiry()
	return signFile(root, keys...)
}

// appendRoot never shares its result with the set in force.
func appendRoot(roots [][]byte, next []byte) [][]byte { return append(slices.Clone(roots), next) }
