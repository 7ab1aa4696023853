// Package schedule decides whether a node may go down now, and if not, why not.
//
// An [Order] is the operator's signed word on how one release is rolled out: a
// ranked roster for each class, and a budget k. [Decide] compares it with what
// the nodes have said of themselves. The package is pure: no clock, no lock,
// no network.
//
// # The rule
//
// Each place in a roster is for one attempt of one node: the j-th place of a
// node that is not skipped is for its j-th attempt at the release. A place is
// over when its node has said that it is at the release or past it
// (Version >= N), that at least j of its attempts have ended (Ended), or that
// it obeys only later orders (Obeys > N); or when the operator has skipped it.
//
// A node may go down for its place in the order of release N iff fewer than k
// other nodes are in
//
//	the nodes with a place of lower rank that is not over, and,
//	if there was an earlier order, of release P (Previous),
//	the nodes of the roster, whatever their rank, that are not skipped and
//	have neither settled at P or later (Version >= P)
//	nor promised to obey only later orders (Obeys > P).
//
// A node of which nothing is known is in both sets: absence is never evidence
// (promise P9). All other questions (paused, canaries, failures, expiry, …)
// come before the rule and only ever add reasons to wait. So does a rehearsal: who has
// rehearsed a release waits until the others that can be reached have, too. When a node may
// rehearse is a question of its own ([MayRehearse]), and part of no proof.
//
// # Settled, and well
//
// One of these questions is how the software of those that have settled fares. A
// canary's place, or one in a wave before theirs, is over for the others when its soak has passed well, which it says
// itself (view.Health.Soaked), or has failed, or the operator skips it. A node whose
// software failed in its soak counts as one that failed, for the places that it had
// then; with one more place it may soak again. And nobody goes down while a canary that
// has settled says that its software is not well, or as many settled nodes say so, or
// have failed, as stop the rollout. A node that says nothing of its health counts as
// well, for as long as this agent has seen it settled: an older moult looks after it.
//
// Under StrategyManual the started places, in the order in which the operator
// started them, are the ranked list; the rest of the roster counts for the
// second set only. StrategyAtOnce asks no such question and bounds nothing;
// nor does StrategyRandom, which asks a hash.
//
// # Within a zone
//
// Where the order has a [Spread], a node waits also until of the nodes in both sets fewer than
// j may share its value of the spread's label: have it by the order, or have none there.
//
// # The proof (promise P4)
//
// The claim: of one class, at most k nodes are voluntarily down at once, not
// counting nodes that the operator has skipped; k is the greatest budget that
// any serial of the newest order in use has had.
//
// What the nodes do (packages upgrade and agent):
//
//	(a) A node goes down only when Decide said so, by an order that its
//	    operator signed and by its own durable record. Until it is up again
//	    it stays in that one attempt.
//	(b) Version, Obeys and Ended are durable before they are signed, true, and
//	    never taken back. Version rises to N when the node is up at N, and a
//	    node at N never goes down under an order of release <= N. Ended counts
//	    an attempt when the node is up again, and that attempt never resumes.
//	    Obeys = N is said only while the node is up, and from then on it goes
//	    down under no order of a release before N.
//
// What the operator's documents do (Successor and Follows check it):
//
//	(c) The serials of an order form one line (but see "Two halves"). A later serial keeps every
//	    place, adds places at the end of the ranked list only, and keeps every
//	    skip. A skip takes all the places that the node then has.
//	    The first order of a release may skip a place, too: that of a node which
//	    has left and has said Version >= P of the predecessor P, so that it goes
//	    down by no order up to P.
//	(d) The first order of a release names its predecessor in Previous, and
//	    its rosters hold every node that the predecessor's did and did not
//	    skip. Nobody adds a node to an order once a later one is signed that
//	    does not have it.
//
// Attempts are numbered alike everywhere: a place p of a node y that is in two
// serials and skipped in neither has the same number in both. For the numbers
// differ only if a place of y before p is skipped in the later serial and not
// in the earlier one. When that skip was made, y had p already, since the
// earlier serial has it; so by (c) the skip took p too.
//
// One order. Suppose that k+1 nodes, none skipped, are down at one moment, all
// under the order of release N. Let x be the one of them whose place has the
// highest rank. By (c) the ranked list that x saw when it decided holds the
// places of the k others, all of lower rank. x went, so it took one of them
// for over, that of y, say. By (b) y's attempt for that place had then ended
// for good, and with it the time that y was down for it; or y was at N or past
// it, or had promised to go down under later orders only. None of these can be
// true of a node that is down for that place at a later moment. Nor was the
// place skipped. Contradiction.
//
// Several orders. Suppose that they are down under orders of several releases.
// Let N be the greatest, and x the node of the highest rank among those down
// under the order of N; let k be the budget that x saw. Of the others, those
// down under N's order are counted by x as before. Let y be one that is down
// under an order of release M < N. By (d), from one order to the next, y is in
// N's roster, and x counted it unless it had y's word that Version >= P or
// Obeys > P, where M <= P, N's predecessor. With the former, y goes down under
// no order up to P ever again. The latter was said while y was up, so before
// it went down for the attempt that it is in now, and forbids that attempt. So
// x counted all others, and there are at most k-1 of them.
//
// # The proof within a zone
//
// The claim: let N be the greatest release by whose order one of some nodes is down that may
// share a value z of the label by that order (each has z there, or no value). At most j of
// these are down at once; j is the greatest that any serial of N's order has had.
//
// It is the same proof, for these nodes alone. Suppose that j+1 of them are down, and let x be
// the one of the highest rank among those down under N's order. For each of the others, y, the
// proof above shows that x counted it: it is in one of the two sets. And x counted it for its
// value, too, since each of x and y has z or no value by N's order, and that is the same in
// all its serials (Successor checks it), and at all places of a node (Validate does). So x saw
// j of them, and waited. What the nodes say of their labels meanwhile is not in it.
//
// # Turns
//
// A release is taken back, and gone forward to again, by its own order: a later serial has
// a greater Turn, and each node that is not skipped one place anew. For the proof a turn is
// an order of its own, which comes after the one of the turn before as that of a release
// does after that of the release before. What a node says of it is Turned:
//
//	(b') Turned is durable before it is signed, true, and never taken back. A node says
//	    (N, t) only while it is up and in no attempt, and from then on goes down under no
//	    earlier turn of N's order, and no order of a release before N. Done says that it is
//	    up where turn t leads, and that it goes down under turn t no more; Ended counts
//	    its attempts in turn t, as the other Ended does.
//	(d') The first serial of a turn has every node in its rosters that the one before did
//	    not skip. Turns begin only while no later release has an order, whose
//	    PreviousTurn is then the last one, or of two halves that of the later.
//
// A node goes down in turn t > 0 iff fewer than k others are among those with a place of
// lower rank that is not over (Done, or so many Ended, or of a later turn or release) and
// those of the roster that have not said (N, t) or more. Version is no evidence here: who
// has settled at N is who goes down. Under the first turn, on the other hand, who has said
// (N, t) is done, whatever its Version; so such a node goes down by no earlier turn, also
// where it has lost the order of turn t, or its folder is older than its word.
//
// Take N in the proof above for the pair of release and turn, in that order: Obeys > P
// becomes "has said (N, t)". It was said while the node was up, so it was not down then,
// and any time that it is down later is by turn t or a later one: so x, which counted all
// who had not said it, and all of lower rank in turn t, counted everybody who is down by
// turn t or before. A node that never went down for N says (N, t), and Done, as soon as it
// has the order: so it waits for nothing, and is waited for by nobody, but it is not taken
// to have done so because nothing is heard of it. Where the order of a later release comes
// after turn t > 0 of N, "Version >= P" is worth nothing, and Done in that turn takes its place.
//
// Finalized, an order has no later turn ([Successor]). Where it contradicts one that takes the
// release back, nodes may have gone back by that, and others done what cannot be undone: the
// order that joins the two is of a turn that goes forward again, and finalized.
//
// # Finalized by its own word
//
// Where a release has finalize_after, the operator has signed Finalized beforehand, for when all
// have been settled and well for so long ([MayFinalize]). Each node finds that out alone, so one
// may finalize while another has not seen it, and the operator, who has not seen it either,
// signs a turn back. As with Finalized in one of two orders that contradict each other, what
// cannot be undone may have been done. Promise P14 holds by three rules:
//
//	(e) Before it tells its software, a node makes durable that it does (Final), and signs
//	    it. From then it takes no turn back: it does not promise to go by one, so for the
//	    others it is one that may be down by an earlier turn, for as long as it takes.
//	(f) Who has seen that any node in the order has said so goes down by no turn back.
//	(g) Who is back by then is where the turn led, and can go forward: the operator signs
//	    the turn that does. Nobody is back and final: by (e), and since a node that has
//	    promised a turn back finalizes only when a later one, forward, is done.
//
// So a node goes back only with software that was never told that its release is final. An
// order that pauses, aborts or turns the rollout, and is known, stops the time, which begins
// anew when all is as it was. Somebody who cannot be reached, an agent that has not heard from a
// peer since it started, and one that does not run have it stand still, and after finalizeLapse
// begin anew. One that is signed and not here yet, and metadata that have expired, do not stop
// it, but nobody finalizes meanwhile.
//
// Canaries, soaks, windows, classes that settle first and unwell nodes hold back no order
// that takes its release back, nor do metadata that have expired: they would keep nodes at
// what is wrong with it. That it fails on as many as may fail does. In a turn forward each
// node soaks anew, also one that never went back (package upgrade). Under StrategyManual a
// turn starts who was started before it, and back also who is said to be at the release.
//
// # Two halves
//
// (c) is the operators' to keep: two who sign successors of one order at once break it, and
// while nodes go down by either half, neither counts the other's. Who has seen both goes
// down by neither (package node). An order ends it that joins the two ([Join]): its serial
// is above both, it names both by digest, and to each node it gives all the places, skips
// and starts that either half gives it. Who has one of those that it names takes it
// ([JoinSuccessor]), although ranks differ. That alone would not do: a node of low rank in it
// may go without counting one of a higher rank that is down by the half that lacked the
// former. So it is paused, and is resumed only when every node that it does not skip has
// said that it is up, and has this order, which it names by digest ([Unjoined]). From when
// it said so a node has gone down by neither half, by (a), nor by this order, which was
// paused: so when that is resumed nobody is down by any of them, and the proof begins anew,
// with one line of orders. Until then the bound is that of both halves together. Places are
// numbered as in either half, since both have a node's places in one order, and a node that
// only one of them skips is skipped at all of them. Where one half is of a later turn, the
// other is joined as if its operator had come to that turn, too.
//
// The order of the next release may be signed before that: its roster has all that the
// joined one has, so by (d) its nodes wait for those that are down by either half.
//
// Nothing here mentions time, messages or failure detectors: a view may be
// arbitrarily old, and one that is old makes its owner wait longer. A crash
// changes nothing that is durable. A node that the operator skipped although
// it lives adds itself to the bound, at most. Damage to the data folder of a
// node could break (b); not to let it is the business of packages store and
// agent.
package schedule
