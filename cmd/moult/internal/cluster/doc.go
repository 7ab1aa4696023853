// Package cluster runs a whole cluster on this machine: agents of class kv on the
// loopback interface, each a process, with the nodes that they look after. The
// demo shows one, and the tests of the command line try theirs.
//
// A [Cluster] has one owner, who stops it.
package cluster
