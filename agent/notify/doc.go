// Package notify tells an operator's command what happens, instead of being polled: a node
// that is held, a rollout that stops or is complete, an alarm that begins or ends.
//
// A Notifier is shown, again and again, which conditions hold (package report). One that has
// held for some time is told once, when it begins, and once more when it has ended; what
// was told is kept in a file, so that the next agent does not tell it again. That one needs
// minutes to find some conditions again, so what it has not seen itself has ended only after
// a longer time. Each telling
// is one run of the command, with an Event as JSON on its standard input: one at a time,
// in order, bounded in time and output, beside whoever calls Observe, who never waits. If
// too many wait, the oldest are dropped; how many were, or failed, the next Event says.
//
// The file is written after the command has run. So a crash between the two tells an event
// again, and none is lost by one.
package notify
