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
	// MaxCalls, MaxResponses, MaxDenies and MaxNames bound what a rules file
	// lists: calls; and in one call responses, denials, and names.
	MaxCalls     = 512
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
	// MaxNextCalls bounds the calls that all objects of a chain make together
	// to answer one.
	MaxNextCalls = 64

	// maxValueBytes bounds a parameter where it is put into a template.
	maxValueBytes = 64 << 10
	// maxProblems bounds how many problems ParseRules reports at once.
	maxProblems = 10
)
