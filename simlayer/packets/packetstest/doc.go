// Package packetstest has what tests of datagrams share: a node that answers them,
// and callers that know what they want to hear. It stops a test that cannot go on.
package packetstest
