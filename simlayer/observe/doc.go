// Package observe tells a simulation object of the calls that a node answers to others
// than the object's callers, where the object's state depends on them.
//
// An [Observer] sees calls go by ([Observer.See]), puts them in the order in which the
// node answered, and tells the object one after the other, as so.Observed says. What
// waits to be told is bounded; an object that falls behind, or from which calls were
// hidden, is told that it has missed something, never left to believe that it knows
// all. Its callers wait until it knows what was before them ([Observer.Current]).
//
// Calls that were made past the layer cannot be seen; package sockets finds out whether
// there are any left.
package observe
