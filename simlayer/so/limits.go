package so

import (
	"time"

	"moult/store/bundle"
)

// Bounds of rules and of what they do to one call.
const (
	// MaxBody bounds, in bytes, a body that rules read or make. Bodies that
	// pass unchanged are streamed and have no bound here.
	MaxBody = 8 << 20
	// MaxEvaluation bounds the time of all expressions over one request, and
	// again over its response.
	MaxEvaluation = time.Second
	// MaxFileBytes bounds a rules file.
	MaxFileBytes = bundle.MaxRulesBytes
	// MaxCalls and MaxExamples bound what a rules file lists; MaxSteps,
	// MaxResponses, MaxDenies and MaxNames what one call lists.
	MaxCalls     = 512
	MaxExamples  = 512
	MaxSteps     = 16
	MaxResponses = 32
	MaxDenies    = 32
	MaxNames     = 64
	// MaxExpressionBytes bounds one jq program.
	MaxExpressionBytes = 32 << 10
	// MaxPatternBytes bounds a path pattern, a template or a name.
	MaxPatternBytes = 2 << 10
	// MaxReasonBytes bounds an author's reason.
	MaxReasonBytes = bundle.MaxReasonBytes
	// MaxChain bounds the objects between a caller and a node.
	MaxChain = 16
	// MaxHops bounds how often a call may go to objects in processes of their own.
	MaxHops = 32
	// MaxNextCalls bounds the calls that all objects of a chain make together
	// to answer one.
	MaxNextCalls = 64

	// maxValueBytes bounds a parameter where it is put into a template.
	maxValueBytes = 64 << 10
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
	// maxBoundedPieces, maxBoundedIndex and maxGrowth bound expressions in bounded
	// form: their parts, an index in a path, and how many times the size of what
	// they look at they can make of it.
	maxBoundedPieces = 1024
	maxBoundedIndex  = 1 << 20
	maxGrowth        = 1024
	// workBetweenLooks is how many bytes a bounded expression looks at before it
	// looks at the clock.
	workBetweenLooks = 1 << 20
	// believedLength bounds the memory that is taken for a body before it comes.
	believedLength = 64 << 10
	// maxProblems bounds how many problems ParseRules reports at once.
	maxProblems = 10
)
