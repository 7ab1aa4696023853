// Package expr is the language of the conditions in a schedule, `when` and `hold_if`: CEL
// (https://cel.dev), which always ends, over facts that nodes have published of themselves.
// It knows neither records nor orders: whoever evaluates an [Expr] says what each of the
// variables stands for.
//
// An expression is checked when a release is built, and again wherever it is read: what it
// names, the types of all of it, and how much it may cost. It answers yes, no, or has no
// [Value]: where a variable that it needs has none, or where it goes wrong. CEL's own rule
// holds: what decides nothing need not be known (false && X, true || X).
//
// # The variables
//
// of the node that would go down:
//
//	self.name, self.class      texts
//	self.version               the version that it has settled at
//	self.labels                a map of texts
//	self.facts.NAME            a number (double): the fact, as published last
//
// of the nodes of its class in the rollout order, those that have settled at the release
// and the others:
//
//	settled.NAME.count         how many have published the fact (int)
//	settled.NAME.mean          and what of those: doubles, without a value where count is 0
//	settled.NAME.p50, .p95     by the nearest rank
//	settled.NAME.min, .max
//	others.NAME.…              the same
//
// of how far the rollout is:
//
//	class.total, class.settled, class.unwell, class.down, class.held, class.waiting, class.skipped
//	classes["auth"].settled    the same of any class of the order
//	release.version, release.previous
//
// # What CEL has and a condition has not
//
// CEL's measure of cost does not bound all of CEL. So there are numbers, texts, true and
// false, and lists that consist of those: no other types, no maps, objects or lists of lists
// but the variables. Lists are not compared, nothing but numbers is added, nothing is matched
// with a pattern; of the macros there are has, all, exists and exists_one.
//
// The integers are CEL's int; 2.0 * x wants a double x, and comparisons take both.
package expr
