package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A rotation writes the new key beside the old one (<name>.pem.next), commits
// metadata that names it, and then renames it over the old one. Opening the
// folder ends what a crash has cut: a new key that the metadata in force knows
// takes its place, any other is removed.
const nextSuffix = ".next"

// RotatePublisher makes a new publisher key and revokes the old one, whose file
// it replaces. It needs the root key. The operator goes on with Absorb.
func (f *Folder) RotatePublisher() error {
	const purpose = "rotate the publisher key"
	root, signer, err := f.rootForChange(purpose)
	if err != nil {
		return err
	}
	fresh, err := f.stageKey(publisherKey)
	if err != nil {
		return err
	}
	old := slices.Clone(root.Signed.Roles[metadata.TARGETS].KeyIDs)
	if err := replaceKeys(&root.Signed, old, fresh, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP); err != nil {
		return err
	}
	next, err := f.nextRoot(root, signer)
	if err != nil {
		return err
	}
	t, err := f.targets()
	if err != nil {
		return err
	}
	targets, err := signFile(t, fresh)
	if err != nil {
		return err
	}
	err = f.publish(draft{purpose: purpose, roots: appendRoot(f.current.set.Roots, next), targets: targets,
		operator: f.current.set.Operator, online: fresh})
	return f.endRotation(publisherKey, err)
}

// RotateOperator makes a new operator key and revokes the old one, whose file it
// replaces. It needs the root key and the publisher's, which delegates to the
// operator. Orders in force are signed again with the new key.
func (f *Folder) RotateOperator() error {
	const purpose = "rotate the operator key"
	root, signer, err := f.rootForChange(purpose)
	if err != nil {
		return err
	}
	publisher, err := f.key(publisherKey, purpose, rootSigners(root, metadata.TARGETS))
	if err != nil {
		return err
	}
	fresh, err := f.stageKey(operatorKey)
	if err != nil {
		return err
	}
	t, err := f.targets()
	if err != nil {
		return err
	}
	old := t.Signed.Delegations.Roles[0].KeyIDs
	if err := replaceKeys(&root.Signed, old, fresh, metadata.SNAPSHOT, metadata.TIMESTAMP); err != nil {
		return err
	}
	t.Signed.Delegations = delegation(fresh)
	d := draft{purpose: purpose, online: publisher}
	next, err := f.nextRoot(root, signer)
	if err != nil {
		return err
	}
	d.roots = appendRoot(f.current.set.Roots, next)
	if d.targets, err = signFile(t, publisher); err != nil {
		return err
	}
	if len(f.current.set.Operator) > 0 {
		o, err := f.operator()
		if err != nil {
			return err
		}
		if d.operator, err = signFile(o, fresh); err != nil {
			return err
		}
	}
	return f.endRotation(operatorKey, f.publish(d))
}

// RotateRoot makes a new root key and revokes the old one, whose file it
// replaces. It needs the old root key, and the publisher's or the operator's.
func (f *Folder) RotateRoot() error {
	const purpose = "rotate the root key"
	root, signer, err := f.rootForChange(purpose)
	if err != nil {
		return err
	}
	fresh, err := f.stageKey(rootKey)
	if err != nil {
		return err
	}
	old := slices.Clone(root.Signed.Roles[metadata.ROOT].KeyIDs)
	if err := replaceKeys(&root.Signed, old, fresh, metadata.ROOT); err != nil {
		return err
	}
	next, err := f.nextRoot(root, signer, fresh)
	if err != nil {
		return err
	}
	err = f.publish(draft{purpose: purpose, roots: appendRoot(f.current.set.Roots, next),
		targets: f.current.set.Targets, operator: f.current.set.Operator})
	return f.endRotation(rootKey, err)
}

// rootForChange returns the root in force, to be changed, and the key that may
// sign the change.
func (f *Folder) rootForChange(purpose string) (*metadata.Metadata[metadata.RootType], *signingKey, error) {
	root, err := f.root()
	if err != nil {
		return nil, nil, err
	}
	k, err := f.key(rootKey, purpose, rootSigners(root, metadata.ROOT))
	return root, k, err
}

// replaceKeys puts fresh in the place of the old keys in the given roles.
func replaceKeys(root *metadata.RootType, old []string, fresh *signingKey, roles ...string) error {
	for _, role := range roles {
		for _, id := range old {
			if slices.Contains(root.Roles[role].KeyIDs, id) {
				if err := root.RevokeKey(id, role); err != nil {
					return err
				}
			}
		}
		if err := root.AddKey(fresh.public, role); err != nil {
			return err
		}
	}
	return nil
}

// stageKey makes a key and stores it beside the one that it will replace.
func (f *Folder) stageKey(name keyName) (*signingKey, error) {
	k, err := newSigningKey()
	if err != nil {
		return nil, err
	}
	return k, f.writeKey(f.keyPath(name)+nextSuffix, k)
}

// endRotation puts a staged key in place after its metadata was committed. When
// that failed it is left to the next opening, which knows what is in force.
func (f *Folder) endRotation(name keyName, err error) error {
	if err != nil {
		return err
	}
	return f.disk.rename(f.keyPath(name)+nextSuffix, f.keyPath(name))
}

// endRotations does the same when the folder is opened.
func (f *Folder) endRotations() error {
	root, err := f.root()
	if err != nil {
		return err
	}
	targets, err := f.targets()
	if err != nil {
		return err
	}
	for name, allowed := range map[keyName]signers{
		rootKey:      rootSigners(root, metadata.ROOT),
		publisherKey: rootSigners(root, metadata.TARGETS),
		operatorKey:  delegatedSigners(targets),
	} {
		staged := f.keyPath(name) + nextSuffix
		k, err := loadKey(staged)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("end a rotation of the %s key: %w", name, err)
		}
		if _, ok := allowed[k.id]; ok {
			err = f.disk.rename(staged, f.keyPath(name))
		} else {
			err = os.Remove(staged)
		}
		if err != nil {
			return fmt.Errorf("end a rotation of the %s key: %w", name, err)
		}
	}
	return nil
}
