// Package membership says who belongs to a cluster, and so who counts.
//
// A [Membership] is a document that the operator signs: the metadata in force name
// it by hash (package trust), beside the rollout orders. It lists the nodes that are
// enrolled, each with its class and the hosts of its public addresses; those that are
// evicted, for good; and the join tokens in force. Who has a token may enrol nodes
// himself: he signs the node's identity with the token's key, and the node shows that
// in its status record ([view.Enrolment]). So a thousand machines are enrolled by one
// document, and one more machine without any.
//
// Who is not enrolled may fetch and pass on, and decides nothing: it stands in no
// rollout order, is no reason to keep the objects for old callers or to take outside
// callers for older ones, and no call is led to an address that it claims. The nil
// Membership is that of a cluster whose operator has signed none yet: everybody counts.
//
// # What a token can and cannot do
//
// A token enrols identities without number, until it is revoked: it is as good as the
// operator's word, and is kept like a password. Revoking it takes the word back for
// all nodes that it has enrolled, so whoever revokes it enrols those by name that are
// to stay. There is no expiry: peers have no common clock, and an enrolment that ends
// by itself would take a node out that nobody meant to.
//
// # The document
//
//	{"format":1,
//	 "members":[{"node":"…","name":"n1","class":"kv","hosts":["10.0.0.5"]}],
//	 "evicted":["…"],
//	 "tokens":[{"key":"…","class":"kv"}]}
//
// in canonical JSON: members and evicted rise by node, hosts and tokens by their
// text, and nothing is there twice. A member without hosts may have its public
// addresses anywhere; a token without a class enrols nodes of any.
package membership
