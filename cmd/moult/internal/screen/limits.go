package screen

import "time"

// What is taken for the size of a terminal that does not say.
const (
	normalWidth  = 80
	normalHeight = 24
)

// wrapIndent is how much further to the right than a line what follows its break stands.
const wrapIndent = 2

// maxRows bounds the rows of a frame, whatever a terminal says of its height.
const maxRows = 1000

// A Transfer is drawn anew at most once in redraw; how fast it goes is said after rateAfter.
const (
	redraw    = 100 * time.Millisecond
	rateAfter = time.Second
)

// Columns of a bar: where there is room for less, there is none.
const (
	shortestBar = 8
	longestBar  = 40
)
