package trust

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"moult/store/bundle"
)

func added(t *testing.T, f *Folder, n bundle.Version, word string) *Verified {
	t.Helper()
	var previous []byte
	if n > 1 {
		var err error
		if previous, err = os.ReadFile(f.releasePath(n - 1)); err != nil {
			t.Fatal(err)
		}
	}
	v, err := f.AddRelease(n, manifest(t, n, previous, word))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A key that was replaced is no evidence any more, neither by what it signs from then on
// nor by what it had signed. The key in force is.
func TestEvidenceIsByKeysInForce(t *testing.T) {
	dir := initFolder(t)
	f := openFolder(t, dir)
	added(t, f, 1, "one")
	thief := openFolder(t, copyFolder(t, dir, rootKey))
	before := added(t, f, 2, "two")
	forged := added(t, thief, 2, "evil two")
	if got := Conflicts(before, forged); !slices.Equal(got, []bundle.Version{2}) {
		t.Fatalf("by one key, which is in force: conflicts %v, want release 2", got)
	}
	if err := f.RotatePublisher(); err != nil {
		t.Fatal(err)
	}
	after := f.Current()
	forged = added(t, thief, 3, "evil three")
	later := added(t, f, 3, "three")
	for name, sets := range map[string][2]*Verified{
		"theirs": {after, forged}, "the other way round": {forged, after}, "a later release": {later, forged},
	} {
		if got := Conflicts(sets[0], sets[1]); len(got) > 0 {
			t.Errorf("%s: conflicts %v by a key that was replaced", name, got)
		}
	}
	if !Thaws(before, after) || Thaws(after, later) || Thaws(nil, after) {
		t.Errorf("thaws: %t by the rotation, want true; %t by a release and %t at first, want false", Thaws(before, after), Thaws(after, later), Thaws(nil, after))
	}
	// Whoever has the new key, too, and signs twice is seen.
	again := openFolder(t, copyFolder(t, dir, rootKey))
	if got := Conflicts(added(t, f, 4, "four"), added(t, again, 4, "evil four")); !slices.Equal(got, []bundle.Version{4}) {
		t.Errorf("by the new key: conflicts %v, want release 4", got)
	}
	// The publisher is not kept from going on by what the thief has signed.
	if _, err := f.Absorb(f.Current().Set(), added(t, openFolder(t, copyFolder(t, dir, rootKey)), 5, "five").Set()); err != nil {
		t.Errorf("absorb after the rotation: %v", err)
	}
}

// Other rotations leave the publisher's key, and so its evidence, in force.
func TestOtherRotationsDoNotThaw(t *testing.T) {
	for name, rotate := range map[string]func(*Folder) error{"operator": (*Folder).RotateOperator, "root": (*Folder).RotateRoot} {
		dir := initFolder(t)
		f := openFolder(t, dir)
		before := added(t, f, 1, "one")
		if err := rotate(f); err != nil {
			t.Fatal(err)
		}
		if Thaws(before, f.Current()) {
			t.Errorf("the rotation of %s thaws releases", name)
		}
	}
}

// Numbers that run ahead by a key that was replaced are taken over only when the
// operator has confirmed it; then all that is signed stands above them.
func TestFastForwardNeedsConfirmation(t *testing.T) {
	dir := initFolder(t)
	f := openFolder(t, dir)
	added(t, f, 1, "one")
	thief := openFolder(t, copyFolder(t, dir, rootKey))
	ahead := thief.current
	jump := func(by int64) *Verified {
		t.Helper()
		over := *ahead
		over.versions.Timestamp += by
		over.versions.Snapshot += by
		v, err := thief.sign(draft{purpose: "run ahead", roots: ahead.set.Roots, targets: ahead.set.Targets, operator: ahead.set.Operator, over: []*Verified{&over}})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if err := f.RotatePublisher(); err != nil {
		t.Fatal(err)
	}
	if err := f.RotateOperator(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Absorb(jump(100).Set()); err != nil {
		t.Errorf("what may have been signed in honesty is not taken over: %v", err)
	}
	far := jump(1 << 30)
	before := f.Current().Digest()
	if _, err := f.Absorb(far.Set()); !errors.Is(err, ErrFastForward) {
		t.Errorf("absorbed numbers that run ahead: %v", err)
	}
	if f.Current().Digest() != before {
		t.Error("a refused set has changed the folder")
	}
	v, err := f.AbsorbJump(far.Set())
	if err != nil {
		t.Fatalf("confirmed: %v", err)
	}
	if _, err := Verify(f.FirstRoot(), far, v.Set()); err != nil {
		t.Errorf("peers that took the thief's set are lost: %v", err)
	}
	if _, err := f.Absorb(far.Set()); err != nil {
		t.Errorf("once confirmed: %v", err)
	}
	// By keys in force it is no thief's jump, or nothing would help against that.
	other := openFolder(t, copyFolder(t, dir, rootKey))
	ahead, thief = other.current, other
	if _, err := f.Absorb(jump(1 << 30).Set()); err != nil {
		t.Errorf("by the keys in force: %v", err)
	}
}

// Whoever has a key that is in force can use up the numbers of its root. The root that
// replaces the key opens others, which the old key cannot reach.
func TestEachRootHasItsNumbers(t *testing.T) {
	for name, c := range map[string]struct {
		rotate func(*Folder) error
		other  keyName // the key that is not stolen
	}{"publisher": {(*Folder).RotatePublisher, operatorKey}, "operator": {(*Folder).RotateOperator, publisherKey}} {
		dir := initFolder(t)
		f := openFolder(t, dir)
		added(t, f, 1, "one")
		thief := openFolder(t, copyFolder(t, dir, rootKey, c.other))
		ahead := func(from *Verified, to int64) (*Verified, error) {
			over := *from
			over.versions.Timestamp, over.versions.Snapshot = to-1, to-1
			return thief.sign(draft{purpose: "run ahead", roots: from.set.Roots, targets: from.set.Targets, operator: from.set.Operator, over: []*Verified{&over}})
		}
		if _, err := ahead(thief.Current(), numbersPerRoot+1); !errors.Is(err, ErrMalformed) {
			t.Fatalf("%s: a number of the next root under this one: %v", name, err)
		}
		last, err := ahead(thief.Current(), numbersPerRoot)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Absorb(last.Set()); err != nil {
			t.Fatalf("%s: the key is in force, and peers have its set: %v", name, err)
		}
		if err := f.Refresh(0); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "`moult trust rotate --role publisher`") {
			t.Errorf("%s: signed above the last number: %v", name, err)
		}
		if err := c.rotate(f); err != nil {
			t.Fatalf("%s: the key cannot be replaced: %v", name, err)
		}
		v := added(t, f, 2, "two")
		if _, err := Verify(f.FirstRoot(), last, v.Set()); err != nil {
			t.Errorf("%s: peers that took the thief's set are lost: %v", name, err)
		}
		if got := v.Versions().Timestamp; got <= numbersPerRoot || got > numbersPerRoot+10 {
			t.Errorf("%s: goes on at %d", name, got)
		}
		// The old key runs ahead under neither root.
		for _, from := range []*Verified{last, v} {
			if _, err := ahead(from, 2*numbersPerRoot); err == nil {
				t.Errorf("%s: the replaced key runs ahead again", name)
			}
		}
	}
}
