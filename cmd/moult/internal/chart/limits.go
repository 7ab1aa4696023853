package chart

import "time"

const (
	// maxSpans is how many spans of time a series has; of each it keeps three points.
	maxSpans = 256
	// firstSpan is how long one is before there are too many.
	firstSpan = time.Millisecond
	// maxTitle bounds a title, in letters: so many have room.
	maxTitle = 100
)
