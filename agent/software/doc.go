// Package software looks after the software of one node: it starts each version
// as a [Plan] says, adopts what an earlier agent has started, keeps it up, and
// stops it with all that may have been left of it.
//
// Who owns a [Software] hears of it by [Config].Tell and is asked for plans by
// [Config].Plan; the package knows nothing else of its owner. What runs stands in
// a file of the data folder ([RecordFile]) from before its first instruction, so
// that the next agent finds it ([Find]) also where the database is lost.
//
// What is promised:
//
//   - At most one software of the node runs. Whatever else is found, by the record
//     or by its marker, is stopped before one is started.
//   - Software that runs is not ended because the agent has forgotten how it was
//     started: the record has the plan.
//   - [Starting] has been acted on before the first instruction of a new version,
//     for its first call may leave before it is ready.
//
// Any goroutine may call the methods of a Software. Keep, Release, PID and Close
// do not wait for those that start and stop.
package software
