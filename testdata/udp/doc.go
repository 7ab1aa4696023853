// Package udpkv is a small key-value node that speaks datagrams, in three versions:
// the second one compatible with the first, the third one not with the second. It
// is a sample of a service over UDP: each datagram is a call or an answer, and a
// caller that hears nothing asks again.
//
// # Protocol
//
// A datagram is words with one space between them; the first is the call's number,
// which the answer repeats. A key has no space; a value is the rest.
//
//	versions 1 and 2                   version 3
//	7 get KEY                          7 read KEY
//	    7 value VALUE, 7 none              7 is VALUE, 7 nothing
//	7 set KEY VALUE                    7 write KEY VALUE
//	    7 done                             7 written
//	7 count (version 2)                (version 3 has none)
//	    7 value NUMBER
//
// What a node does not know it answers by "7 error REASON". All calls may be made
// twice.
//
// # State
//
// STATE/log has a line "KEY VALUE" for each that was set; the last one counts.
package udpkv
