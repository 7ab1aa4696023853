// Package screen is how things are told to people at a terminal: what others have said, made
// harmless, and amounts in few words.
package screen

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"moult/store/bundle"
)

// Harmless is a text that programs or peers may have said, without what would steer a terminal.
func Harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' || r == '\t' {
			return r
		}
		return '\uFFFD'
	}, s)
}

// Line is such a text in one line.
func Line(s string) string { return Harmless(strings.Join(strings.Fields(s), " ")) }

// Short is such a text in one line that is not long.
func Short(s string) string {
	s = Line(s)
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:97], "") + "..."
	}
	return s
}

// For is a time for people who look at a screen: its one or two greatest units. The
// clocks of two machines differ, so it may be a little below nothing.
func For(d time.Duration) string {
	d = max(0, d)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// Took is a time that was measured, with two or three of its digits.
func Took(took bundle.Duration) string {
	d := time.Duration(took)
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// Roundly is a time for people: three digits or so.
func Roundly(d time.Duration) string {
	unit := time.Nanosecond
	for d >= 1000*unit && unit < time.Second {
		unit *= 10
	}
	return d.Round(unit).String()
}

// Count is how many there are of a thing.
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// Bytes is a number of bytes for people.
func Bytes(n int64) string {
	const units = "KMGT"
	f, i := float64(n), -1
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i < 0 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}
