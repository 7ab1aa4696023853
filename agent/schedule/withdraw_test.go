package schedule

import (
	"errors"
	"testing"

	"moult/store/bundle"
)

// TestWithdrawnStays: no order takes back what an earlier one has withdrawn, and an agent
// that does not know what that is refuses the order by name.
func TestWithdrawnStays(t *testing.T) {
	m := &bundle.Manifest{Version: 2, Classes: map[bundle.Class]bundle.ClassUpgrade{"kv": {
		Schedule: bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "1"},
	}}}
	first, err := Instantiate(m, bundle.Sum([]byte("2")), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	aborted, err := first.Abort()
	if err != nil {
		t.Fatal(err)
	}
	withdrawn, err := aborted.Withdraw("kv", 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	if first.Format != FormatVersion || aborted.Format != FormatVersion || withdrawn.Format != FormatWithdrawn {
		t.Errorf("formats %d, %d, %d", first.Format, aborted.Format, withdrawn.Format)
	}
	m.Version = 4
	next, err := Instantiate(m, bundle.Sum([]byte("4")), withdrawn, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := Follows(withdrawn, next); err != nil {
		t.Error(err)
	}
	for name, less := range map[string]bundle.Withdrawn{"nothing": nil, "less": {{Class: "kv", First: 2, Last: 2}}, "another": {{Class: "auth", First: 2, Last: 3}}} {
		o := *next
		o.Withdrawn, o.Format = less, FormatWithdrawn
		if less == nil {
			o.Format = FormatVersion
		}
		if err := o.Validate(); err != nil {
			t.Fatal(err)
		}
		if err := Follows(withdrawn, &o); !errors.Is(err, ErrNotSuccessor) {
			t.Errorf("%s is withdrawn after it: %v", name, err)
		}
		s := *withdrawn
		s.Serial++
		s.Withdrawn = less
		if err := Successor(withdrawn, &s); !errors.Is(err, ErrNotSuccessor) {
			t.Errorf("%s is withdrawn in the successor: %v", name, err)
		}
	}
	if _, err := withdrawn.Resume(); err == nil {
		t.Error("a release that is withdrawn is rolled out")
	}
	o := *withdrawn
	o.Format = FormatVersion
	if _, err := MarshalOrder(&o); !errors.Is(err, ErrInvalid) {
		t.Errorf("in the first format: %v", err)
	}
}
