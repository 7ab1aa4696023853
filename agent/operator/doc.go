// Package operator makes, ranks and signs rollout orders.
//
// An [Operator] works on a trust folder, which has the operator's key, and on
// what an agent says of its cluster. [Operator.Begin] makes the order that begins
// the rollout of a release, [Operator.Change] the successor of one, [Preview]
// ranks the nodes without signing anything, and [Follow] waits for the end of a
// rollout.
//
// An order, once signed, binds: the same roster must not be ranked twice, and the
// next release's order must name it. So nothing is signed for a release that the
// agent would refuse ([CheckRelease], [CheckPlatforms], the agent's own
// judgements), an order that the folder has signed before is used again, and a
// new one follows the newest that was signed, whether or not it has arrived
// anywhere.
//
// What is refused is a [control.Error] with the reason and what to do next.
package operator
