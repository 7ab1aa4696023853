package jq

import "time"

// Bounds of programs and of what they read and make.
const (
	// MaxBytes bounds a value where it is printed.
	MaxBytes = 8 << 20
	// MaxDuration bounds the time of all programs of a Run, as package cputime counts it.
	MaxDuration = time.Second
	// MaxProgramBytes bounds a program's text.
	MaxProgramBytes = 32 << 10

	// maxDepth is what encoding/json allows in what it reads.
	maxDepth = 10_000
	// maxNumberBytes bounds a number's text: computing with one takes more than
	// linear time.
	maxNumberBytes = 1000
	// maxScanDepth bounds how deep a JSON text may be for the bounded form; gojq
	// takes deeper ones.
	maxScanDepth = 256
	// maxScanned bounds, in bytes, a text whose names are found by offsets.
	maxScanned = 1 << 30
	// fewNames is up to how many names of an object are compared one by one, and
	// fewScanned where its text is scanned.
	fewNames   = 32
	fewScanned = 8
	// keptMembers is how many members of objects have memory that is kept from one
	// call to the next.
	keptMembers = 1024
	// maxBoundedPieces, maxBoundedIndex and maxGrowth bound bounded programs: their
	// parts, an index in a path, and how many times the size of what they look at
	// they can make of it.
	maxBoundedPieces = 1024
	maxBoundedIndex  = 1 << 20
	maxGrowth        = 1024
	// workBetweenLooks is how many bytes a bounded program looks at before it looks
	// at the clock.
	workBetweenLooks = 1 << 20
	// maxExpected bounds the memory that is taken for a value before it is made.
	maxExpected = 64 << 10
)
