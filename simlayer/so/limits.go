package so

import (
	"moult/simlayer/so/jq"
	"moult/store/bundle"
)

// Bounds of rules and of what they do to one call.
const (
	// MaxBody bounds, in bytes, a body that rules read or make. Bodies that
	// pass unchanged are streamed and have no bound here.
	MaxBody = jq.MaxBytes
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
	// maxList bounds the values of one {name...} in a query or a form.
	maxList = 1024
	// believedLength bounds the memory that is taken for a body before it comes.
	believedLength = 64 << 10
	// maxProblems bounds how many problems ParseRules reports at once.
	maxProblems = 10
)
