// Package proxy passes on whole calls of HTTP by net/http: for package simlayer
// those that cannot be relayed as bytes, for package host those that reach the
// object host.
//
// A [Proxy] is a httputil.ReverseProxy that hides itself: what the caller has sent
// arrives as it was sent, and so does the answer. Whoever uses it embeds [Call] in
// what it knows of a call, gives that to [Proxy.Serve], and gets it back by [Of] in
// its RoundTrip, which may try more than once: [Call.Renew] gives each try the body,
// [Call.Sent] notes what came of it, and [Call.Again] says whether another one may
// follow.
//
// A short body is read before the call begins, so that a slow caller delays no
// drain and the call can be sent again; a longer one is streamed, and read by nobody
// once the call has ended.
package proxy
