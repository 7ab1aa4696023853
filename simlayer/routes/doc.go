// Package routes is where calls go: for callers of each version the simulation objects
// in this process that change their calls, and then the software of the node, or an
// object process.
//
// A [Route] is one routing of the layer made ready. It does not change: another one takes
// its place, with those of its backends that stay. A [Backend] is one address with the
// connections to it, by which it may be left: when the software is to be stopped, it has
// no connection of the layer's any more.
package routes
