package status

import (
	"fmt"

	"moult/agent/control"
)

// Progress tells in one line how far a rollout is.
func Progress(s control.Status) string {
	var sum control.ClassStatus
	for _, c := range s.Classes {
		sum.Total += c.Total
		sum.Settled += c.Settled
		sum.Down += c.Down
		sum.Waiting += c.Waiting
		sum.Held += c.Held
		sum.Unwell += c.Unwell
	}
	line := fmt.Sprintf("%s %s: %d of %d settled", ReleaseWords(s.Release), s.Release.State, sum.Settled, sum.Total)
	for _, part := range []struct {
		n    int
		word string
	}{{sum.Down, "down"}, {sum.Waiting, "waiting"}, {sum.Held, "held"}, {sum.Unwell, "not well"}} {
		if part.n > 0 {
			line += fmt.Sprintf(", %d %s", part.n, part.word)
		}
	}
	return line
}

// ReleaseWords says of a release which way its rollout goes.
func ReleaseWords(r control.ReleaseStatus) string {
	switch {
	case r.Back():
		return fmt.Sprintf("taking back release %d (turn %d)", r.Version, r.Turn)
	case r.Finalized:
		return fmt.Sprintf("release %d (finalized)", r.Version)
	case r.Turn > 0:
		return fmt.Sprintf("release %d again (turn %d)", r.Version, r.Turn) + whenFinal(r)
	}
	return fmt.Sprintf("release %d", r.Version) + whenFinal(r)
}

// whenFinal tells when a release is finalized by its own word.
func whenFinal(r control.ReleaseStatus) string {
	switch {
	case r.FinalizeAfter == 0:
		return ""
	case r.FinalizeAt.IsZero():
		return fmt.Sprintf(" (final %s after all are well)", r.FinalizeAfter)
	}
	return fmt.Sprintf(" (final on %s)", r.FinalizeAt.Local().Format("2006-01-02 15:04:05"))
}
