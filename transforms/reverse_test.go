//go:build unix

package transforms

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"moult/store/bundle"
	"moult/testdata/kit"
)

// takeBack is a reverse transform: it keeps what only the new state has.
func takeBack() int {
	old, rest := os.Getenv("MOULT_OLD"), os.Getenv("MOULT_COMPLEMENT")
	data, err := os.ReadFile(filepath.Join(old, "A"))
	note, err2 := os.ReadFile(filepath.Join(old, "note"))
	seen, err3 := os.ReadFile(filepath.Join(os.Getenv("MOULT_PAST_STATE"), "seen"))
	err = errors.Join(err, err2, err3,
		os.WriteFile(filepath.Join(os.Getenv("MOULT_NEW"), "a"), []byte(strings.ToLower(string(data))), 0o600),
		os.WriteFile(filepath.Join(rest, "note"), note, 0o600),
		os.WriteFile(filepath.Join(os.Getenv("MOULT_FUTURE_STATE"), "a"), seen, 0o600))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// goForward is the transform that it is the reverse of.
func goForward() int {
	data, err := os.ReadFile(filepath.Join(os.Getenv("MOULT_OLD"), "a"))
	note := []byte("first")
	if dir := os.Getenv("MOULT_COMPLEMENT"); dir != "" {
		note, err = os.ReadFile(filepath.Join(dir, "note"))
	}
	err = errors.Join(err,
		os.WriteFile(filepath.Join(os.Getenv("MOULT_NEW"), "A"), []byte(strings.ToUpper(string(data))), 0o600),
		os.WriteFile(filepath.Join(os.Getenv("MOULT_NEW"), "note"), note, 0o600))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// ahead makes slots that are live at version 2, with the state of its past object.
func ahead(t *testing.T) *Slots {
	t.Helper()
	s := openSlots(t, filepath.Join(kit.MemDir(t), "state"))
	from := kit.MemDir(t)
	writeTree(t, from, map[string]string{"a": "alpha"})
	if err := errors.Join(s.Adopt(1, from), s.Create(2)); err != nil {
		t.Fatal(err)
	}
	writeTree(t, s.Path(2), map[string]string{"A": "BETA", "note": "by version 2"})
	past, err := s.Objects().Past(2)
	if err := errors.Join(err, s.Switch(2)); err != nil {
		t.Fatal(err)
	}
	writeTree(t, past, map[string]string{"seen": "by its callers"})
	return s
}

// back takes release 2 back, as an agent does; it may be repeated.
func back(s *Slots, publish func(*Slots) error) error {
	slot, future, rest, err := s.PrepareReverse(2, 1)
	if err != nil {
		return err
	}
	j := Job{
		Spec: bundle.Transform{Reverse: &bundle.Reverse{Exec: []string{os.Args[0]}}}, Env: []string{"TEST_PROGRAM=back", quickExit},
		Dir: filepath.Dir(s.dir), Old: s.Path(2), New: slot, Past: s.Objects().PastState(2), Future: future, Complement: rest,
		From: 2, To: 1, Reverse: true,
	}
	if _, err := (Runner{}).Run(context.Background(), j); err != nil {
		return err
	}
	return publish(s)
}

func publishBack(s *Slots) error { return s.PublishReverse(2, 1) }

// backSlotFirst is a planted bug: it publishes the slot before what lies beside it.
func backSlotFirst(s *Slots) error {
	return errors.Join(s.Publish(1), s.PublishReverse(2, 1))
}

// wholeBack says whether no state is half of what it should be: the new slot is as it was,
// and an old slot that was made anew comes with all that it could not hold.
func wholeBack(s *Slots, new bundle.Digest) error {
	if live, _, err := s.Current(); live != 2 || err != nil {
		return fmt.Errorf("slot %d is live, %w", live, err)
	}
	if d, _, _, err := DigestTree(s.Path(2)); d != new {
		return fmt.Errorf("the new slot has changed: %w", err)
	}
	if got, err := os.ReadFile(filepath.Join(s.Path(1), "a")); err != nil || string(got) == "alpha" {
		return nil // not there, or not gone yet
	} else if string(got) != "beta" {
		return fmt.Errorf("the old slot has %q", got)
	}
	note, err := os.ReadFile(filepath.Join(s.Objects().Complement(2), "note"))
	seen, err2 := os.ReadFile(filepath.Join(s.Objects().FutureState(2), "a"))
	if string(note) != "by version 2" || string(seen) != "by its callers" {
		return fmt.Errorf("the old slot is there, and beside it %q and %q: %w", note, seen, errors.Join(err, err2))
	}
	return nil
}

func TestReverse(t *testing.T) {
	s := ahead(t)
	if err := back(s, publishBack); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(wholeBack(s, digest(t, s.Path(2))), publishBack(s), s.Switch(1)); err != nil {
		t.Fatal(err)
	}
	// Forward again: what the old state could not hold comes back.
	tmp, err := s.Prepare(2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (Runner{}).Run(context.Background(), Job{
		Spec: bundle.Transform{Exec: []string{os.Args[0]}}, Env: []string{"TEST_PROGRAM=forward", quickExit}, Dir: s.dir,
		Old: s.Path(1), New: tmp, Complement: s.Objects().Complement(2), From: 1, To: 2,
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(2); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(s.Path(2), "note")); string(got) != "by version 2" {
		t.Errorf("forward again it has %q, %v", got, err)
	}
	if all, err := s.Objects().Complements(); !slices.Equal(all, []bundle.Version{2}) || err != nil {
		t.Errorf("complements of %v, %v", all, err)
	}
	if err := s.Objects().RetireComplement(2); err != nil || s.Objects().Complement(2) != "" {
		t.Errorf("the complement is still there, %v", err)
	}
}

// Whatever step it fails at, the new slot is as it was, and no old slot comes without what
// it could not hold; repeated, it comes to its end. The check finds one that is published
// in the wrong order.
func TestReverseFailsAtEachStep(t *testing.T) {
	planned := errors.New("planned")
	fails := func(publish func(*Slots) error, at int) (*Slots, bundle.Digest, error) {
		s := ahead(t)
		new, count := digest(t, s.Path(2)), 0
		s.Failpoint = func(string) error {
			if count++; count == at {
				return planned
			}
			return nil
		}
		err := back(s, publish)
		s.Failpoint = nil
		return s, new, err
	}
	found, steps := false, 0
	for at := 1; ; at++ {
		s, new, err := fails(publishBack, at)
		if err == nil {
			steps = at - 1
			break
		}
		if again := openSlots(t, s.dir); !errors.Is(err, planned) || wholeBack(s, new) != nil || wholeBack(again, new) != nil {
			t.Fatalf("step %d: %v, %v", at, err, errors.Join(wholeBack(s, new), wholeBack(again, new)))
		}
		if err := errors.Join(back(s, publishBack), wholeBack(s, new)); err != nil {
			t.Fatalf("step %d, repeated: %v", at, err)
		}
		planted, new, err := fails(backSlotFirst, at)
		found = found || err != nil && wholeBack(planted, new) != nil
	}
	if steps < 10 || !found {
		t.Errorf("%d steps; the planted order is found: %v", steps, found)
	}
}

func TestReverseRefuses(t *testing.T) {
	j := newJob(t, "back")
	j.Reverse = true
	var failed *Failed
	if _, err := (Runner{}).Run(context.Background(), j); !errors.As(err, &failed) || !strings.Contains(err.Error(), "no reverse transform") {
		t.Errorf("error: %v", err)
	}
	// Planted: a program that gets around the protection, and writes to what it takes back.
	j = newJob(t, "write-path")
	j.Reverse, j.Spec.Reverse = true, &bundle.Reverse{Exec: j.Spec.Exec}
	j.Past = filepath.Join(t.TempDir(), "past")
	writeTree(t, j.Past, map[string]string{"a": "x"})
	j.Env = append(j.Env, "TEST_PATH="+j.Past)
	if _, err := (Runner{Protect: ProtectCopy}).Run(context.Background(), j); !errors.Is(err, ErrOldChanged) || !strings.Contains(err.Error(), j.Past) {
		t.Errorf("error: %v", err)
	}
}
