// Package home is a node's data folder: whose it is, and what the node keeps there. Open
// locks it, and reads or makes the node's identity; Recall says what earlier runs knew;
// Save makes durable what a node.Save says, all of it or nothing.
//
// A Home decides nothing and starts nothing. Its parts (database, depot, slots) may be
// used from any goroutine; Save, Recall, Remember and whatever else has to agree with
// what the node knows are for the loop that owns the node.
package home
