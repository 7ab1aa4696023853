// Package stream has what is done to connections of TCP and of unix sockets whatever
// they speak: they are accepted, dialled, copied from one to another, and ended; they
// are counted against a bound, and whoever serves them is waited for.
//
// No socket of it is one of multipath TCP: programs that inherit it, or that are
// steered to, would not expect that.
package stream
