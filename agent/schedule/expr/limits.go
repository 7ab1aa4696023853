package expr

const (
	// MaxBytes bounds the text of an expression.
	MaxBytes = 2 << 10
	// maxDepth bounds how deep it may be nested.
	maxDepth = 64
	// maxCost bounds what an expression may cost by CEL's measure, where a step costs
	// about 1: it is estimated when the expression is checked, and counted when it runs.
	maxCost = 10_000

	// maxLabels and maxText bound what the estimate takes self.labels and texts for;
	// package view has the bounds of labels.
	maxLabels = 64
	maxText   = 128
	// maxClasses bounds the classes of an order, likewise.
	maxClasses = 64

	// maxSeen bounds the values that an answer names.
	maxSeen = 6
)
