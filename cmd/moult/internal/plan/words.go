package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"moult/agent/schedule"
	"moult/cmd/moult/internal/screen"
	"moult/store/bundle"
)

func transformWords(cu bundle.ClassUpgrade) string {
	t := cu.Transform
	switch {
	case cu.From == 0:
		return "none: the class is installed, its nodes start without state"
	case len(t.Exec) == 0:
		return "the state is copied as it is; " + reverseWords(t)
	}
	words := fmt.Sprintf("by %s, in at most %s", strings.Join(t.Exec, " "), t.Timeout)
	if cu.Future.Stateful() {
		words += "; it reads the future object's state"
	}
	if cu.Past.Stateful() {
		words += "; it makes the past object's first state"
	}
	return words + "; " + reverseWords(t)
}

// reverseWords says whether there is a way back.
func reverseWords(t bundle.Transform) string {
	switch {
	case t.Reverse == nil:
		return "once callers are let in, nothing takes it back"
	case len(t.Reverse.Exec) == 0:
		return "it can be taken back: the state is copied"
	}
	return "it can be taken back, by " + strings.Join(t.Reverse.Exec, " ")
}

// ScheduleWords says how the nodes of a class go.
func ScheduleWords(s bundle.ScheduleSpec) string {
	var parts []string
	switch s.Strategy {
	case bundle.StrategyAtOnce:
		parts = append(parts, "at once: every node as soon as it has the software, however many are down")
	case bundle.StrategyRandom:
		parts = append(parts, fmt.Sprintf("at random: about %d nodes in an hour, however many are down", s.Rate))
	case bundle.StrategyManual:
		parts = append(parts, fmt.Sprintf("by hand: each node when `moult start` names it, at most %s down", s.MaxUnavailable))
	default:
		parts = append(parts, fmt.Sprintf("%s: at most %s of the nodes down", s.Strategy, s.MaxUnavailable))
		if !strings.HasSuffix(s.MaxUnavailable, "%") {
			parts[0] = fmt.Sprintf("%s: at most %s down", s.Strategy, s.MaxUnavailable)
		}
	}
	if s.Canary > 0 {
		parts = append(parts, fmt.Sprintf("the first %d alone, watched for %s", s.Canary, s.Soak))
	}
	if len(s.Waves) > 0 {
		parts = append(parts, "in waves: "+WaveWords(s.Waves))
	}
	if s.Spread != nil {
		parts = append(parts, fmt.Sprintf("of those that share a %s at most %d down", s.Spread.Label, s.Spread.Max))
	}
	if len(s.After) > 0 {
		parts = append(parts, fmt.Sprintf("after %s has settled", ClassNames(s.After)))
	}
	if len(s.Windows) > 0 {
		parts = append(parts, windowWords(s.Windows, time.Now()))
	}
	if s.When != "" {
		parts = append(parts, "only when "+screen.Line(s.When))
	}
	if s.HoldIf != "" {
		parts = append(parts, "held while "+screen.Line(s.HoldIf))
	}
	if s.FailureMax > 0 {
		parts = append(parts, fmt.Sprintf("%d failed stop it", s.FailureMax))
	}
	if s.ProgressDeadline > 0 {
		parts = append(parts, fmt.Sprintf("%s without another settled node count as one that failed", s.ProgressDeadline))
	}
	parts = append(parts, fmt.Sprintf("calls wait up to %s for their node", s.HoldTimeout))
	return strings.Join(parts, "; ")
}

// WaveWords says which nodes go one wave after the other.
func WaveWords(waves []bundle.Wave) string {
	var words []string
	for _, w := range waves {
		var word string
		switch {
		case w.Count > 0:
			word = fmt.Sprintf("%d of them", w.Count)
		case w.Percent > 0:
			word = fmt.Sprintf("up to %d %%", w.Percent)
		case w.Each != "":
			word = fmt.Sprintf("one %s after the other", w.Each)
		default:
			var labels []string
			for _, k := range slices.Sorted(maps.Keys(w.Labels)) {
				labels = append(labels, k+"="+w.Labels[k])
			}
			word = "those with " + strings.Join(labels, " and ")
		}
		if w.Soak > 0 {
			word += fmt.Sprintf(", watched for %s", w.Soak)
		}
		words = append(words, word)
	}
	return strings.Join(words, "; then ")
}

// ClassNames is a list of classes in one line.
func ClassNames(classes []bundle.Class) string {
	var words []string
	for _, c := range classes {
		words = append(words, string(c))
	}
	return strings.Join(words, ", ")
}

// windowWords says when nodes may go down, and when that begins, by the windows' clocks and
// by this machine's.
func windowWords(windows []bundle.Window, now time.Time) string {
	var all []string
	for _, w := range windows {
		all = append(all, schedule.WindowText(w))
	}
	words := "only " + strings.Join(all, " or ")
	open, next, err := schedule.Open(windows, now, time.LoadLocation)
	switch {
	case open:
		return words + " (open now)"
	case err != nil:
		return fmt.Sprintf("%s (%v)", words, err)
	}
	return fmt.Sprintf("%s (next %s, which is %s here)", words, next.Format("Mon 2006-01-02 15:04 MST"), next.Local().Format("Mon 15:04 MST"))
}
