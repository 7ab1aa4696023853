package kit

import (
	"testing"
	"time"
)

// Patience bounds every wait of Until. It is long, for it only ends tests that have
// failed, however busy the machine is.
const Patience = time.Minute

// Until waits until is says yes, asking again and again: for what gives no sign when
// it has happened. What has a channel or a condition is waited for by that.
func Until(t testing.TB, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(Patience); !is(); {
		select {
		case <-end:
			t.Fatalf("wait for %s: not seen in %v", what, Patience)
		case <-tick.C:
		}
	}
}
