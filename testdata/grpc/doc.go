// Package grpckv is a small key-value node that speaks gRPC, in three versions:
// the second one compatible with the first, the third one not with the second.
// It is a sample of a service whose calls go over HTTP/2, with trailers and
// streams, and whose bodies nobody but its own software reads.
//
// # Protocol
//
// Messages are protobuf's own well-known types, so nothing has to be generated.
// A pair is a Struct with the texts key and value.
//
//	version 1, service kv.v1.Store
//	  Get(StringValue key) StringValue      NOT_FOUND where there is none
//	  Set(Struct pair) Empty
//	  List(Empty) stream StringValue        all keys, sorted
//	  Clear(Empty) Empty                    removes all keys
//
//	version 2, the same service, has besides
//	  Delete(StringValue key) Empty         NOT_FOUND where there is none
//
//	version 3, service kv.v3.Entries
//	  Read, Write, List                     as Get, Set and List
//	  Remove(StringValue key) StringValue   as Delete; answers what was removed
//	  Swap(Struct pair and old) Empty       FAILED_PRECONDITION where the value is not old
//
// Version 2 is compatible: whoever knows version 1 only makes calls that version
// 2 answers alike, and Delete at a node of version 1 is UNIMPLEMENTED, which gRPC
// has for that. Version 3 renames all, and drops Clear. Simulation needs paths
// only: the messages of calls that go on are the same bytes (an Empty is what
// any message looks like to whoever expects no field). Swap cannot be simulated at
// version 2, nor Clear at version 3.
//
// # State
//
// STATE/values.json is an object of all values by key, the same in every version.
package grpckv
