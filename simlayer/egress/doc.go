// Package egress is the proxy for a node's own calls: of HTTP by absolute URLs and
// by CONNECT, and of SOCKS5, all on one address.
//
// A destination that is the public address of a peer's service is replaced by that
// peer's address for the version of the calling software ([Config].Resolve and
// Label); any other passes untouched. Calls to a peer that is briefly away wait and
// are tried again, within bounds. Before the version is known all calls wait, since
// without a label a peer would take them for calls from outside.
//
// With a [Config].Secret it serves only who has that, by Basic credentials or those of
// SOCKS5: other users of the machine can connect to its address, but not read the
// environment in which the node's software finds it.
package egress
