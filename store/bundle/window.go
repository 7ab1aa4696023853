package bundle

import (
	"regexp"
	"slices"
	"time"
)

// Window is a span of time that comes back every week. It opens at Start, by the clocks
// of Timezone, on each of Days, and stays open for Length, as a stopwatch measures it.
type Window struct {
	// Days are weekdays as in "Mon", from Monday on; none for every day.
	Days []string `json:"days,omitempty"`
	// Start is hours and minutes, such as "02:00".
	Start  string   `json:"start"`
	Length Duration `json:"length"`
	// Timezone is a name of the IANA time zone database, such as "Europe/Zurich" or "UTC".
	Timezone string `json:"timezone"`
}

// Weekdays are the names of the days of a window, in the sequence in which it lists them.
var Weekdays = [7]string{"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}

var (
	startPattern = regexp.MustCompile(`^([01][0-9]|2[0-3]):[0-5][0-9]$`)
	// zonePattern leaves out "Local", which is another zone on each machine, and "".
	zonePattern = regexp.MustCompile(`^(UTC|[A-Z][A-Za-z0-9_+-]*(/[A-Z][A-Za-z0-9_+-]*)+)$`)
)

// ValidStart reports whether s is a time of the day as a window has it.
func ValidStart(s string) bool { return startPattern.MatchString(s) }

// ValidZone reports whether s has the form of a name of a time zone.
func ValidZone(s string) bool { return len(s) <= MaxZoneBytes && zonePattern.MatchString(s) }

// Equal reports whether two windows are the same.
func (w Window) Equal(x Window) bool {
	return slices.Equal(w.Days, x.Days) && w.Start == x.Start && w.Length == x.Length && w.Timezone == x.Timezone
}

// On reports whether the window opens on a day of the week.
func (w Window) On(day time.Weekday) bool {
	return len(w.Days) == 0 || slices.Contains(w.Days, day.String()[:3])
}

// Problems lists what is wrong with the window, field by field.
func (w Window) Problems(fail func(bad bool, field, format string, args ...any)) {
	at := -1
	for _, day := range w.Days {
		i := slices.Index(Weekdays[:], day)
		fail(i <= at, "days", "%.40q, want some of %s, each once and from Monday on", day, Weekdays)
		at = max(at, i)
	}
	fail(len(w.Days) == len(Weekdays), "days", "all of them, which is said by none")
	fail(!ValidStart(w.Start), "start", `%.40q, want hours and minutes such as "02:00"`, w.Start)
	fail(w.Length < MinWindow || w.Length > MaxWindow, "length", "%s, want %s to %s", w.Length, MinWindow, MaxWindow)
	fail(!ValidZone(w.Timezone), "timezone", `%.80q, want a name of the IANA database such as "Europe/Zurich", or "UTC"`, w.Timezone)
}
