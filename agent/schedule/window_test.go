package schedule

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"moult/store/bundle"
)

// TestOpen opens windows where clocks are put forward and back, and where a window is
// longer than the time between two of its openings.
func TestOpen(t *testing.T) {
	const zurich = "Europe/Zurich" // forward on 2026-03-29 at 02:00, back on 2026-10-25 at 03:00
	night := bundle.Window{Start: "02:30", Length: bundle.Duration(time.Hour), Timezone: zurich}
	weekend := bundle.Window{Days: []string{"Fri"}, Start: "22:00", Length: bundle.Duration(56 * time.Hour), Timezone: zurich}
	for _, c := range []struct {
		what   string
		window bundle.Window
		now    string
		want   string // "open", or when the next opens
	}{
		{"on a usual day", night, "2026-03-28T01:30:00Z", "open"},
		{"its end does not count", night, "2026-03-28T02:30:00Z", "2026-03-29T01:30:00Z"},
		{"clocks pass over the start: as if they had not been put forward", night, "2026-03-29T01:29:59Z", "2026-03-29T01:30:00Z"},
		{"open by then", night, "2026-03-29T02:29:59Z", "open"},
		{"the day after", night, "2026-03-29T02:30:00Z", "2026-03-30T00:30:00Z"},
		{"clocks show the start twice: the first counts", night, "2026-10-25T00:29:59Z", "2026-10-25T00:30:00Z"},
		{"the length is that of a stopwatch", night, "2026-10-25T01:29:59Z", "open"},
		{"so it has ended when they show it again", night, "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"},
		{"over midnight and two days", weekend, "2026-12-06T21:00:00Z", "open"},
		{"and then not", weekend, "2026-12-07T05:00:00Z", "2026-12-11T21:00:00Z"},
		{"an evening when UTC has the next day", bundle.Window{Days: []string{"Sun"}, Start: "23:00", Length: bundle.Duration(time.Hour), Timezone: "America/Los_Angeles"}, "2026-12-07T07:30:00Z", "open"},
		{"a morning when UTC has the day before", bundle.Window{Days: []string{"Mon"}, Start: "01:00", Length: bundle.Duration(time.Hour), Timezone: "Pacific/Auckland"}, "2026-12-06T12:30:00Z", "open"},
		{"all week", bundle.Window{Days: []string{"Mon"}, Start: "00:00", Length: bundle.MaxWindow, Timezone: zurich}, "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z"},
	} {
		now, err := time.Parse(time.RFC3339, c.now)
		if err != nil {
			t.Fatal(err)
		}
		open, next, err := Open([]bundle.Window{c.window}, now, time.LoadLocation)
		got := next.UTC().Format(time.RFC3339)
		if open {
			got = "open"
		}
		if err != nil || got != c.want {
			t.Errorf("%s: at %s it says %s (%v), want %s", c.what, c.now, got, err, c.want)
		}
	}
}

// TestOpenOverAYear compares Open, every five minutes of a year, with clocks that are read.
func TestOpenOverAYear(t *testing.T) {
	windows := []bundle.Window{
		{Days: []string{"Tue", "Sat"}, Start: "12:00", Length: bundle.Duration(90 * time.Minute), Timezone: "America/New_York"},
		{Start: "18:15", Length: bundle.Duration(15 * time.Minute), Timezone: "Asia/Kolkata"},
	}
	zones := map[string]*time.Location{}
	for _, w := range windows {
		loc, err := time.LoadLocation(w.Timezone)
		if err != nil {
			t.Fatal(err)
		}
		zones[w.Timezone] = loc
	}
	zone := func(name string) (*time.Location, error) { return zones[name], nil }
	shown := func(now time.Time) bool { // no clock is changed at these hours
		at := now.In(zones["America/New_York"])
		minute := at.Hour()*60 + at.Minute()
		if d := at.Weekday(); (d == time.Tuesday || d == time.Saturday) && minute >= 720 && minute < 810 {
			return true
		}
		at = now.In(zones["Asia/Kolkata"])
		minute = at.Hour()*60 + at.Minute()
		return minute >= 18*60+15 && minute < 18*60+30
	}
	compare := func(windows []bundle.Window) (wrong int) {
		var opens time.Time
		for now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC); now.Year() == 2026; now = now.Add(5 * time.Minute) {
			open, next, err := Open(windows, now, zone)
			if err != nil || open != shown(now) || now.Equal(opens) && !open {
				wrong++
			}
			opens = next
		}
		return wrong
	}
	if n := compare(windows); n > 0 {
		t.Errorf("wrong at %d times of a year", n)
	}
	windows[1].Start = "18:16"
	if compare(windows) == 0 {
		t.Error("the comparison does not see that a window opens a minute late")
	}
}

// TestWindowsOfAnOrder: an order refuses what a manifest does.
func TestWindowsOfAnOrder(t *testing.T) {
	good := bundle.Window{Days: []string{"Mon", "Sun"}, Start: "02:00", Length: bundle.Duration(time.Hour), Timezone: "UTC"}
	for want, change := range map[string]func(*ClassOrder){
		"":                    func(*ClassOrder) {},
		"windows[0].days":     func(c *ClassOrder) { c.Windows[0].Days = []string{"Sun", "Mon"} },
		"windows[0].start":    func(c *ClassOrder) { c.Windows[0].Start = "24:00" },
		"windows[0].length":   func(c *ClassOrder) { c.Windows[0].Length = bundle.MaxWindow + 1 },
		"windows[0].timezone": func(c *ClassOrder) { c.Windows[0].Timezone = "Local" },
		"windows:":            func(c *ClassOrder) { c.Windows = make([]bundle.Window, bundle.MaxWindows+1) },
		"after":               func(c *ClassOrder) { c.After = []bundle.Class{"b", "a"} },
		"now":                 func(c *ClassOrder) { c.Now = []int{0} },
	} {
		c := ClassOrder{Strategy: bundle.StrategyRolling, MaxUnavailable: 1, Windows: []bundle.Window{good}}
		change(&c)
		o := &Order{Format: FormatWindows, Release: 2, Manifest: bundle.Sum([]byte("m")), Serial: 1, State: StateRunning, Classes: map[bundle.Class]ClassOrder{"kv": c}}
		err := o.Validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%q: got %v", want, err)
		}
	}
}

// TestAfterWithoutCircles: a class that a release does not change waits no longer for one
// that waits for it by what the release says.
func TestAfterWithoutCircles(t *testing.T) {
	spec := func(after ...bundle.Class) bundle.ClassUpgrade {
		return bundle.ClassUpgrade{Schedule: bundle.ScheduleSpec{Strategy: bundle.StrategyRolling, MaxUnavailable: "1", After: after}}
	}
	nodes := []Candidate{{ID: idOf("a"), Class: "a", Reachable: true}, {ID: idOf("b"), Class: "b", Reachable: true}, {ID: idOf("c"), Class: "c", Reachable: true}}
	first, err := Instantiate(&bundle.Manifest{Version: 1, Classes: map[bundle.Class]bundle.ClassUpgrade{"a": spec("b", "c"), "b": spec("c"), "c": spec()}}, bundle.Sum([]byte("1")), nil, nodes)
	if err != nil {
		t.Fatal(err)
	}
	next, err := Instantiate(&bundle.Manifest{Version: 2, Classes: map[bundle.Class]bundle.ClassUpgrade{"c": spec("a")}}, bundle.Sum([]byte("2")), first, nodes)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(next.Classes["a"].After, next.Classes["b"].After, next.Classes["c"].After)
	if got != "[] [] [a]" {
		t.Errorf("a, b and c wait for %s", got)
	}
}
