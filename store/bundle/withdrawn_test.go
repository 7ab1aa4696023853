package bundle

import (
	"slices"
	"testing"
)

// TestWithdrawnFrom: the next release that changes a class takes it from the version
// before all withdrawn ones that it follows.
func TestWithdrawnFrom(t *testing.T) {
	w := Withdrawn{{"auth", 2, 9}, {"kv", 3, 3}, {"kv", 5, 6}}
	for _, tc := range []struct {
		n, want Version
		changes []Version // known are these and all between
	}{
		{2, 1, []Version{1}},
		{3, 2, []Version{1, 2}}, // the withdrawn one itself
		{4, 2, []Version{1, 2, 3}},
		{5, 2, []Version{1, 2, 3}},       // 4 leaves the class as it is
		{7, 4, []Version{1, 3, 4, 5, 6}}, // 4 was passed
		{7, 2, []Version{1, 3, 6}},       // and here it says nothing of the class
		{8, 2, []Version{1, 3, 6}},       // nor does 7
		{8, 7, []Version{1, 3, 7}},
		{4, 2, []Version{2, 3}}, // what is before 2 is not known
		{5, 4, []Version{9}},    // nothing is
		{7, 4, []Version{9}},    // nor are 5 and 6, which are withdrawn
	} {
		from := w.From("kv", tc.n, func(v Version) (changes, known bool) {
			return slices.Contains(tc.changes, v), v >= slices.Min(tc.changes)
		})
		if from != tc.want {
			t.Errorf("release %d after %v takes kv from %d, want %d", tc.n, tc.changes, from, tc.want)
		}
	}
}

func TestWithdrawnWith(t *testing.T) {
	var w Withdrawn
	for _, tc := range []struct {
		add  Withdrawal
		want Withdrawn
	}{
		{Withdrawal{"kv", 5, 5}, Withdrawn{{"kv", 5, 5}}},
		{Withdrawal{"kv", 3, 3}, Withdrawn{{"kv", 3, 3}, {"kv", 5, 5}}},
		{Withdrawal{"auth", 4, 9}, Withdrawn{{"auth", 4, 9}, {"kv", 3, 3}, {"kv", 5, 5}}},
		{Withdrawal{"kv", 5, 7}, Withdrawn{{"auth", 4, 9}, {"kv", 3, 3}, {"kv", 5, 7}}},
		{Withdrawal{"kv", 2, 8}, Withdrawn{{"auth", 4, 9}, {"kv", 2, 8}}},
	} {
		next := w.With(tc.add)
		if !slices.Equal(next, tc.want) {
			t.Fatalf("%v with %v: %v, want %v", w, tc.add, next, tc.want)
		}
		if err := next.Validate(); err != nil {
			t.Errorf("%v: %v", next, err)
		}
		if x, lacks := next.Lacks(w); lacks {
			t.Errorf("%v lacks %v of %v", next, x, w)
		}
		if _, lacks := w.Lacks(next); !lacks {
			t.Errorf("%v lacks nothing of %v", w, next)
		}
		w = next
	}
	for name, bad := range map[string]Withdrawn{
		"falling":    {{"kv", 3, 2}},
		"no release": {{"kv", 0, 2}},
		"too late":   {{"kv", 3, MaxVersion + 1}},
		"no class":   {{"", 3, 3}},
		"unsorted":   {{"kv", 3, 3}, {"auth", 3, 3}},
		"overlap":    {{"kv", 3, 5}, {"kv", 5, 6}},
		"too many":   make(Withdrawn, MaxWithdrawn+1),
	} {
		if bad.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
