package upgrade

import (
	"fmt"
	"strings"
	"time"

	"moult/store/bundle"
)

// Copies says how long it is likely to take to copy the state of Version, by a measured
// sample.
type Copies struct {
	Version bundle.Version
	Files   int
	Bytes   int64
	Takes   time.Duration
}

// copyWords begin a warning.
const copyWords = "while the node is down it copies its state"

// IsCopyWarning tells that a record's alarm is one.
func IsCopyWarning(alarm string) bool { return strings.HasPrefix(alarm, copyWords) }

// Warning says that callers are likely to be refused while a release copies the state, so
// many times, since they are held for less; "" where they are not.
func (c Copies) Warning(times int, hold time.Duration) string {
	total := time.Duration(times) * c.Takes
	if times == 0 || total <= hold {
		return ""
	}
	what := copyWords
	if times > 1 {
		what += fmt.Sprintf(" %d times", times)
	}
	return fmt.Sprintf("%s, about %d files and %d MiB: going by a measured sample, that takes about %v, and callers are held for at most %v, so some are refused; a longer hold_timeout in the release's schedule lets them wait",
		what, c.Files, c.Bytes>>20, total.Round(time.Second), hold)
}
