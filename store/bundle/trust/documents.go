package trust

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"moult/store/bundle"
	"moult/store/durable"
)

// pendingSuffix marks a rollout order whose signature is not in force yet.
const pendingSuffix = ".pending"

// AddRelease signs manifest as release n, which must follow the newest release
// (any n where there is none). It needs the publisher key. The same bytes again
// change nothing; other bytes for a number are refused for ever (ErrConflict),
// for two contents of one number freeze the cluster.
func (f *Folder) AddRelease(n bundle.Version, manifest []byte) (*Verified, error) {
	purpose := fmt.Sprintf("sign release %d", n)
	if known, ok := f.current.Release(n); ok {
		if known != refOf(manifest) {
			return nil, fmt.Errorf("%s: %w: it was signed before with manifest %s, and this is %s: give the new content the next number",
				purpose, ErrConflict, known.Digest.Short(), bundle.Sum(manifest).Short())
		}
		return f.current, f.KeepRelease(n, manifest)
	}
	if err := f.checkRelease(n, manifest); err != nil {
		return nil, fmt.Errorf("%s: %w", purpose, err)
	}
	root, err := f.root()
	if err != nil {
		return nil, err
	}
	key, err := f.key(publisherKey, purpose, rootSigners(root, metadata.TARGETS))
	if err != nil {
		return nil, err
	}
	t, err := f.targets()
	if err != nil {
		return nil, err
	}
	t.Signed.Targets[documentPath(releasePrefix, n)] = target(refOf(manifest))
	targets, err := signFile(t, key)
	if err != nil {
		return nil, err
	}
	if err := f.disk.write(f.releasePath(n), manifest, 0o600); err != nil {
		return nil, fmt.Errorf("%s: %w", purpose, err)
	}
	err = f.publish(draft{purpose: purpose, roots: f.current.set.Roots, targets: targets, operator: f.current.set.Operator, online: key})
	if err != nil {
		return nil, err
	}
	return f.current, nil
}

// checkRelease checks that peers would take the manifest as release n.
func (f *Folder) checkRelease(n bundle.Version, manifest []byte) error {
	head := f.current.Head()
	if head != 0 && n != head+1 {
		return fmt.Errorf("the newest release is %d, so the next is %d: set that as the version, or take over what is newer first", head, head+1)
	}
	if len(f.current.releases) >= MaxReleases {
		return fmt.Errorf("a cluster has at most %d releases", MaxReleases)
	}
	m, err := bundle.ParseManifest(manifest)
	if err != nil {
		return err
	}
	if m.Version != n {
		return fmt.Errorf("its manifest is of version %d", m.Version)
	}
	if previous := f.current.releases[head].Digest; m.Previous != previous {
		return fmt.Errorf("its manifest follows manifest %q and the newest release here is %q: build it again in this folder", m.Previous, previous)
	}
	return nil
}

func (f *Folder) releasePath(n bundle.Version) string {
	return filepath.Join(f.dir, releasesDir, fmt.Sprintf("%d.json", n))
}

// KeepRelease stores the manifest of a release that was signed elsewhere and
// taken over by Absorb. Other bytes than those signed are ErrUntrusted.
func (f *Folder) KeepRelease(n bundle.Version, manifest []byte) error {
	if known, ok := f.current.Release(n); !ok || known != refOf(manifest) {
		return fmt.Errorf("keep the manifest of release %d: %w: the metadata in force does not name it", n, ErrUntrusted)
	}
	if _, ok := f.SignedRelease(n); ok {
		return nil
	}
	return f.disk.write(f.releasePath(n), manifest, 0o600)
}

// SignedRelease returns the manifest of release n, if it is in force and this
// folder has it.
func (f *Folder) SignedRelease(n bundle.Version) ([]byte, bool) {
	known, ok := f.current.Release(n)
	if !ok {
		return nil, false
	}
	data, err := durable.ReadFile(f.releasePath(n), maxReleaseBytes)
	return data, err == nil && refOf(data) == known
}

// AddOrder signs a rollout order for release n, which must be signed already.
// It needs the operator key. serial must be higher than any that this folder
// signed for n before. The order in force again changes nothing; other bytes
// for a serial are refused (ErrConflict), and an order that is no longer in
// force too (ErrRollback).
func (f *Folder) AddOrder(n bundle.Version, serial uint64, order []byte) (*Verified, error) {
	purpose := fmt.Sprintf("sign rollout order %d for release %d", serial, n)
	done, err := f.checkOrder(n, serial, order)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", purpose, err)
	}
	if done {
		return f.current, nil
	}
	path := f.orderPath(n, serial)
	err = f.signDocument(purpose, documentPath(orderPrefix, n), "", path+pendingSuffix, order)
	if err != nil {
		return nil, err
	}
	return f.current, f.disk.rename(path+pendingSuffix, path)
}

// checkOrder reports whether exactly this order is in force already.
func (f *Folder) checkOrder(n bundle.Version, serial uint64, order []byte) (done bool, err error) {
	if _, ok := f.current.Release(n); !ok {
		return false, fmt.Errorf("release %d is not signed: take over its bundle first", n)
	}
	if len(order) < 1 || len(order) > MaxOrderBytes {
		return false, fmt.Errorf("%d bytes, want 1 to %d", len(order), MaxOrderBytes)
	}
	if signed, ok := f.SignedOrder(n, serial); ok {
		switch {
		case !bytes.Equal(signed, order):
			return false, fmt.Errorf("%w: that serial was signed before with other content: use the next serial", ErrConflict)
		case f.current.orders[n] != refOf(order):
			return false, fmt.Errorf("%w: it was signed before and a later one is in force: sign the successor of that one", ErrRollback)
		}
		return true, nil
	}
	if last, _, ok := f.LastOrder(n); ok && serial <= last {
		return false, fmt.Errorf("%w: serial %d was signed before: use serial %d", ErrRollback, last, last+1)
	}
	return false, nil
}

func (f *Folder) orderPath(n bundle.Version, serial uint64) string {
	return filepath.Join(f.dir, ordersDir, fmt.Sprintf("%d.%d.json", n, serial))
}

// SignedOrder returns the rollout order that this folder signed for release n
// with that serial. It need not be in force any more.
func (f *Folder) SignedOrder(n bundle.Version, serial uint64) ([]byte, bool) {
	data, err := durable.ReadFile(f.orderPath(n, serial), MaxOrderBytes)
	return data, err == nil
}

// LastOrder returns the rollout order of the highest serial that this folder
// signed for release n.
func (f *Folder) LastOrder(n bundle.Version) (serial uint64, order []byte, ok bool) {
	serials := f.serials(n)
	if len(serials) == 0 {
		return 0, nil, false
	}
	serial = serials[len(serials)-1]
	order, ok = f.SignedOrder(n, serial)
	return serial, order, ok
}

// OrderInForce returns the rollout order of release n that the metadata in
// force name, if this folder signed it.
func (f *Folder) OrderInForce(n bundle.Version) ([]byte, bool) {
	known, ok := f.current.Order(n)
	if !ok {
		return nil, false
	}
	for _, serial := range slices.Backward(f.serials(n)) {
		if data, ok := f.SignedOrder(n, serial); ok && refOf(data) == known {
			return data, true
		}
	}
	return nil, false
}

// AddMembers signs the document of who belongs to the cluster, in the place of the one
// in force. It needs the operator key. The document in force again changes nothing.
func (f *Folder) AddMembers(doc []byte) (*Verified, error) {
	const purpose = "sign who belongs to the cluster"
	if len(doc) < 1 || len(doc) > MaxMembersBytes {
		return nil, fmt.Errorf("%s: %d bytes, want 1 to %d", purpose, len(doc), MaxMembersBytes)
	}
	if f.current.members.Ref == refOf(doc) {
		return f.current, f.KeepMembers(doc)
	}
	serial := bundle.Version(f.current.members.Serial)
	if serial >= bundle.MaxVersion {
		return nil, fmt.Errorf("%s: %d is the last serial there is", purpose, serial)
	}
	err := f.signDocument(purpose, documentPath(membersPrefix, serial+1), documentPath(membersPrefix, serial), f.membersPath(refOf(doc)), doc)
	return f.current, err
}

// signDocument signs a document of the operator's under a name, in the place of the one
// with the name old, if there is one, and puts it into a file before it is in force.
func (f *Folder) signDocument(purpose, name, old, file string, doc []byte) error {
	t, err := f.targets()
	if err != nil {
		return err
	}
	key, err := f.key(operatorKey, purpose, delegatedSigners(t))
	if err != nil {
		return err
	}
	m, err := f.operator()
	if err != nil {
		return err
	}
	delete(m.Signed.Targets, old)
	m.Signed.Targets[name] = target(refOf(doc))
	signed, err := signFile(m, key)
	if err != nil {
		return err
	}
	if err := f.disk.write(file, doc, 0o600); err != nil {
		return fmt.Errorf("%s: %w", purpose, err)
	}
	return f.publish(draft{purpose: purpose, roots: f.current.set.Roots, targets: f.current.set.Targets, operator: signed, online: key})
}

// KeepMembers stores the document of who belongs to the cluster that was signed
// elsewhere and taken over by Absorb. Other bytes than those signed are ErrUntrusted.
func (f *Folder) KeepMembers(doc []byte) error {
	if f.current.members.Ref != refOf(doc) {
		return fmt.Errorf("keep who belongs to the cluster: %w: the metadata in force does not name it", ErrUntrusted)
	}
	if _, ok := f.SignedMembers(); ok {
		return nil
	}
	return f.disk.write(f.membersPath(f.current.members.Ref), doc, 0o600)
}

// SignedMembers returns the document of who belongs to the cluster, if one is in force
// and this folder has it.
func (f *Folder) SignedMembers() ([]byte, bool) {
	if f.current.members.Serial == 0 {
		return nil, false
	}
	data, err := durable.ReadFile(f.membersPath(f.current.members.Ref), MaxMembersBytes)
	return data, err == nil && refOf(data) == f.current.members.Ref
}

func (f *Folder) membersPath(ref Ref) string {
	return filepath.Join(f.dir, ordersDir, "members-"+ref.Digest.Short()+".json")
}

// serials lists those that this folder signed for release n, lowest first.
func (f *Folder) serials(n bundle.Version) []uint64 {
	entries, err := os.ReadDir(filepath.Join(f.dir, ordersDir))
	if err != nil {
		return nil
	}
	var serials []uint64
	for _, e := range entries {
		if m, s, ok := parseOrderName(e.Name()); ok && m == n {
			serials = append(serials, s)
		}
	}
	slices.Sort(serials)
	return serials
}

// parseOrderName reads "2.7.json".
func parseOrderName(name string) (n bundle.Version, serial uint64, ok bool) {
	s, ok := strings.CutSuffix(name, ".json")
	if !ok {
		return 0, 0, false
	}
	a, b, ok := strings.Cut(s, ".")
	if !ok {
		return 0, 0, false
	}
	v, err1 := strconv.ParseUint(a, 10, 64)
	serial, err2 := strconv.ParseUint(b, 10, 64)
	return bundle.Version(v), serial, err1 == nil && err2 == nil
}

// endOrders ends what a crash has cut: a pending order that is in force was
// signed, any other was not.
func (f *Folder) endOrders() error {
	dir := filepath.Join(f.dir, ordersDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), pendingSuffix)
		if !ok {
			continue
		}
		pending := filepath.Join(dir, e.Name())
		data, err := durable.ReadFile(pending, MaxOrderBytes)
		if err != nil {
			return err
		}
		if n, _, ok := parseOrderName(name); ok && f.current.orders[n] == refOf(data) {
			err = f.disk.rename(pending, filepath.Join(dir, name))
		} else {
			err = os.Remove(pending)
		}
		if err != nil {
			return fmt.Errorf("end the signing of rollout order %s: %w", name, err)
		}
	}
	return nil
}
