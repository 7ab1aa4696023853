// Package bundle has the words of moult that every other package uses
// (Digest, Version, Class, NodeID) and the manifest of a release.
//
// A manifest is canonical JSON: MarshalManifest is the only writer, and
// ParseManifest refuses bytes that it would not write again byte for byte, so
// one release has one digest. Unknown fields are refused: an agent that does
// not know what a field asks for must not start the release. A newer format
// says what is new in it, and a manifest is written in the lowest format that
// can say it, so an agent that is too old for a release tells which moult it
// needs, and takes all other releases.
//
// The packages below it: trust (TUF metadata: who may say what), archive (the
// .moult file: one tar of metadata, manifests and blobs), build (from
// upgrade.hcl to a .moult file).
package bundle
