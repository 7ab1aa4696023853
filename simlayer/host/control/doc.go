// Package control is what the agent and its object host tell each other: the agent
// an [Order], always all of it, whenever something has changed; the object host a
// [Report] after each, and as a sign of life.
//
// Messages are frames on a unix socket pair: eight bytes of header (the length of
// what follows, and the number of sockets that come with the header, both
// big-endian), and JSON. Both ends are the same binary, so there is no version.
package control
