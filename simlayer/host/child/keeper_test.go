package child

import (
	"testing"
	"time"
)

// A crash loop comes to rest: the pauses grow.
func TestPauses(t *testing.T) {
	const shortest, longest = 100 * time.Millisecond, 30 * time.Second
	var b backoff
	var got []time.Duration
	for _, up := range []time.Duration{0, time.Second, 0, 0, 0, 0, 0, 0, 0, 0, pauseReset, 0} {
		got = append(got, b.next(up, shortest, longest))
	}
	if got[0] != shortest || got[8] != 25600*time.Millisecond || got[9] != longest || got[10] != shortest || got[11] != 2*shortest {
		t.Errorf("pauses %v", got)
	}
}
