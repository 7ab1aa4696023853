package notify

import (
	"time"

	"moult/agent/report"
)

// telling is one event that is to be told, and the condition that it is about.
type telling struct {
	event     Event
	condition report.Condition
	old       bool // it was so before anybody was to be told: it is known, and not told
}

// watch finds out what is news of the conditions that hold. It has no clock.
type watch struct {
	source Source
	told   map[string]report.Condition // told, or about to be, and not ended
	begun  map[string]time.Time        // since when one holds that was not told
	gone   map[string]time.Time        // since when one does not hold that was
	// earlier are those that an earlier agent has told and this one has not seen, and looked
	// is since when this one has been looking: it finds some again only after minutes.
	earlier map[string]bool
	looked  time.Time
	// first is true, where no earlier agent has seen more, until a release was seen that the
	// node has a part in: that one before it is complete is no news.
	first bool
}

func newWatch(s Source, told []report.Condition, first bool) *watch {
	w := &watch{source: s, told: map[string]report.Condition{}, begun: map[string]time.Time{}, gone: map[string]time.Time{}, earlier: map[string]bool{}, first: first}
	for _, c := range told {
		w.told[c.Key], w.earlier[c.Key] = c, true
	}
	return w
}

// see returns what is to be told when these conditions hold; part is whether the node has a
// part in the release that rolls.
func (w *watch) see(now time.Time, part bool, conditions []report.Condition) (news []telling) {
	if w.looked.IsZero() {
		w.looked = now
	}
	held := map[string]bool{}
	for _, c := range conditions {
		c.Text = short(c.Text)
		held[c.Key] = true
		delete(w.gone, c.Key)
		delete(w.earlier, c.Key)
		_, told := w.told[c.Key]
		switch {
		case told:
		case w.first && c.Kind == report.KindComplete:
			news = append(news, telling{condition: c, old: true})
			w.begin(c)
		case w.steady(w.begun, c.Key, now) && len(w.told) < maxTold:
			news = append(news, telling{event: w.source.event(c, now, false), condition: c})
			w.begin(c)
		}
	}
	w.first = w.first && !part
	for key := range w.begun {
		if !held[key] {
			delete(w.begun, key)
		}
	}
	for key, c := range w.told {
		// A rollout that was complete stays so, whoever joins; it is told once.
		if held[key] || c.Kind == report.KindComplete || !w.steady(w.gone, key, now) {
			continue
		}
		if w.earlier[key] && now.Sub(w.looked) < graceTime {
			continue
		}
		news = append(news, telling{event: w.source.event(c, now, true), condition: c})
		delete(w.told, key)
		delete(w.gone, key)
		delete(w.earlier, key)
	}
	return news
}

// begin notes that a condition is told. Of rollouts that were complete the last is kept.
func (w *watch) begin(c report.Condition) {
	delete(w.begun, c.Key)
	supersede(w.told, c)
}

func supersede(told map[string]report.Condition, c report.Condition) {
	if c.Kind == report.KindComplete {
		for key, before := range told {
			if before.Kind == c.Kind {
				delete(told, key)
			}
		}
	}
	told[c.Key] = c
}

// steady reports whether it has been so for long enough.
func (w *watch) steady(since map[string]time.Time, key string, now time.Time) bool {
	at, ok := since[key]
	if !ok {
		at, since[key] = now, now
	}
	return now.Sub(at) >= steadyTime
}
