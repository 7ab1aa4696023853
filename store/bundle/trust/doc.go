// Package trust says whose word counts: TUF metadata (The Update Framework,
// https://theupdateframework.github.io/specification/ 1.0) by go-tuf v2.
//
// # Why TUF
//
// A peer-to-peer network is a set of untrusted mirrors: any peer may be stale,
// cut off, or hostile, and yet hands on what decides which software runs. That
// is the case TUF was made for, down to keys that are lost or stolen. moult
// uses its file formats and its client workflow, and fetches by itself.
//
// # Roles
//
//	root       the keys of all roles; signs only when keys change, and can be
//	           kept offline. Its first version is given to every peer by hand,
//	           and its digest is the cluster's identity.
//	targets    the publisher: names releases/<N>.json, the manifests, by hash
//	           and length, and delegates rollouts/* to the operator.
//	operator   names rollouts/<N>.json, the rollout orders, and
//	           rollouts/members.<serial>.json, who belongs to the cluster. It can start, pause or abort what the
//	           publisher released, and nothing else.
//	snapshot,  the publisher or the operator, either of them: the versions that
//	timestamp  go together, and the newest. The operator must be able to sign
//	           these without the publisher, or nobody could pause a rollout at
//	           night.
//
// # What a peer is protected from
//
//   - Other software: every byte that runs is reached by hash from targets (P1).
//   - Old software: versions, releases and orders never go back; Verify compares
//     with what is known, CheckFloor with what is durably remembered (P2).
//   - Mixtures: the timestamp pins the snapshot, and the snapshot all other
//     files, by hash. Beyond TUF, the snapshot pins the root in force too, so a
//     peer cannot hide a revocation behind an otherwise valid set.
//   - Two releases with one number: see Conflicts (P3). Who gets hold of a key that
//     is replaced later can freeze releases until then; what is frozen by then stays so.
//   - Forged variety: TUF ignores surplus signatures and reads any JSON. Here
//     one signed file has one form of bytes and every signature must count, so
//     that sets can be compared by digest and nobody without a key can make a
//     second valid form of a set, nor raise a false alarm with it.
//   - Endless, deep and huge data: every bound is named in limits.go (P10).
//
// Freezing (a peer that shows nothing new) is bounded by expiry: expired
// metadata still verifies and running nodes go on, but nothing new starts.
//
// Whoever holds the publisher's or the operator's key can sign a timestamp with the
// highest version there is (a fast-forward attack), after which no newer one exists.
// TUF recovers from that by forgetting versions when keys change, and P2 forbids to
// forget. So each root has its own numbers, numbersPerRoot of them, and under it no
// file may have a higher one: the root that replaces the key opens as many above, and
// what the old key signs stays below them. A folder does not follow a jump by itself
// where the key has been replaced (ErrFastForward).
//
// Not protected: whoever holds the publisher's key releases what he likes, also
// MaxReleases of them, which stay on the list for good.
//
// # Two ends
//
// Peers call Verify, keep the Verified with the greatest timestamp (Newer), and
// send its Set on. People keep a Folder: keys, the metadata in force, and every
// document as it was signed. The publisher and the operator may be two people
// with two folders, made from one Init by copying the folder and deleting each
// other's key. Neither folder is ever the only current one, so Folder.Absorb
// takes over what the other has signed, and signs above both where both sides
// have news.
//
// # A trust folder
//
//	keys/{root,publisher,operator}.pem  ed25519 keys, PKCS#8 in PEM, mode 0600
//	gossip.key                          32 random bytes in base64
//	root.json                           the first root, which agents are given
//	settings.json                       how long signatures last
//	metadata/timestamp.json             the commit point: names all below
//	metadata/<V>.root.json              the chain of roots
//	metadata/<V>-<digest>.<role>.json   snapshot, targets and operator in force
//	releases/<N>.json                   manifests as signed
//	rollouts/<N>.<serial>.json          rollout orders as signed
//	rollouts/members-<digest>.json      who belongs to the cluster, as signed
//	lock                                held while a command has it open
//
// A change writes new files under new names and replaces timestamp.json last, so
// a crash leaves the old metadata in force or the new, and unused files that the
// next change overwrites or removes.
package trust
