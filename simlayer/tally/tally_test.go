package tally

import "testing"

// A call that is tried again under another routing is open once, where it is now.
func TestOpenOnce(t *testing.T) {
	var calls ByVersion
	c := calls.Begin(1, nil)
	c = calls.Begin(2, c)
	c = calls.Begin(2, c)
	if one, two := calls.Snapshot()[1].Open, calls.Snapshot()[2].Open; one != 0 || two != 1 {
		t.Errorf("open: %d of version 1, %d of version 2, want 0 and 1", one, two)
	}
	c.Done()
	if two := calls.Snapshot()[2].Open; two != 0 {
		t.Errorf("open after its end: %d", two)
	}
}
