// Package archive reads and writes the .moult file (a bundle: all that a site
// without a network needs to take over a release), and the artifact tar that
// carries the software of one class for one platform.
//
// # The bundle file
//
// A bundle is one tar. Its entries come in this order, each at most once:
//
//	metadata/roots/1.json …          the chain of roots, from the first, without a gap
//	metadata/timestamp.json
//	metadata/snapshot.json
//	metadata/targets.json
//	metadata/operator.json           if an order was ever signed
//	releases/N.json …                manifests by rising N; the newest must be there
//	rollouts/N.json …                rollout orders by rising N
//	blobs/sha256/<64 hex digits> …   by rising digest: exactly the chunks and the
//	                                 rules files of the newest manifest
//
// Every entry is a plain file with a ustar header in which all but name, size
// and checksum is fixed (see header), zero bytes up to the next multiple of
// 512, and two blocks of zero bytes end the file. So any tar program lists and
// unpacks a bundle, but only Write makes one: for given metadata, documents and
// blobs there is exactly one sequence of bytes, and Open accepts no other.
// Nothing in a bundle is free for somebody to change, padding included.
//
// # What Open promises
//
// Open reads the file once, front to back, and writes nothing anywhere. It
// verifies the metadata first (package trust); from then on nothing is read
// whose name, length and digest were not signed for. What it returns is the
// whole bundle, verified. Memory holds the metadata and the documents, which
// are bounded, and one offset for each blob.
//
// A bundle need not carry every document that its metadata names; what it lacks
// of older releases is fetched from peers.
//
// # The artifact tar
//
// Pack writes a file or a folder as a tar that depends on nothing but names,
// contents and executable bits; Extract lays it out again. Entries are folders
// (mode 0755) and plain files (0755 or 0644), sorted by name as bytes, so that
// every folder comes before what it holds and no name comes twice. There are
// no links, devices, owners or times.
package archive
