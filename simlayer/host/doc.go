// Package host runs simulation objects outside the agent's process, so that one
// that crashes, hangs, or eats memory fails its own calls and nothing else.
//
// A [Host] is given, by [Host.Set], every object that is not run in the agent
// itself, the native version, and where the node's software listens. It works out
// what each object calls next, and keeps two kinds of process:
//
//   - The object host, which is this binary again (see [Main]): one process for
//     all objects of the kinds rules, wasm, compatible and refuse. Objects that
//     follow each other run there one after the other, as in [so.NewChain].
//   - For each exec object, the program that its release brought.
//
// [Host.Addrs] says at which address the callers of a version are answered. Each
// is a listening socket that the agent holds for as long as the object is set:
// processes inherit it, and come and go. While one is being started its callers
// wait in the socket's queue; while the next start is put off for more than a
// second, since it has ended too soon too often, the agent itself answers: HTTP
// with a refusal ([so.Refusal], 503 with Retry-After), anything else with a reset.
// Every end of a process is logged, and told by [Host.Stats].
//
// # The object host
//
// Its sockets are unix sockets in a folder that nobody else may enter. It is
// driven over a control socket, by which new listening sockets are passed while
// it runs: a change of what is next, or of the set of objects, restarts nothing.
// Calls that are under way end as they began; calls that wait for a next that is
// away (dial errors are tried again, up to [Objects.Hold]) follow the change. A
// memory limit ends the process rather than the machine. Every 200 ms it sends
// its figures; where none came for [Config.Silence] it is killed and started
// again. It ends when the control socket closes, so also when the agent dies.
//
// # Exec objects
//
// The program runs in the release's unpacked artifact, in a session of its own,
// which is killed whole. It finds in its environment
//
//	LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES   listening sockets from descriptor 3 on,
//	                                         one for each service, by name
//	MOULT_NEXT_<SERVICE>    host:port to call for the service, in upper case and
//	                        with _ for -; it stays the same for the life of the object
//	MOULT_LISTEN_<SERVICE>  host:port to listen on, for a program that cannot
//	                        inherit sockets
//	MOULT_STATE             its folder; what is there outlives it
//	MOULT_FROM, MOULT_TO    the version of its callers, and the one that it calls
//	MOULT_OBSERVED          where it is told of calls, if it observes: see below
//
// The sockets are of TCP on loopback, blocking, and of UDP for services of that
// protocol. MOULT_NEXT leads to the agent, which passes each connection on to
// whoever is next, and lets it wait, up to [Objects.Hold], while that one is away. More
// than 4096 at once are reset.
// A program that ignores the sockets may listen at MOULT_LISTEN instead: when
// callers wait at the socket and nobody takes them, the agent looks there, and
// carries their connections over, for one hop more.
//
// LISTEN_PID is the program's own process ID, which only the process itself knows
// in time. So this binary is started first, sets it, sets the memory limit, and
// becomes the program. (A shell could do the former; but not every machine has
// one, and no limit would hold before the program begins.)
//
// A program that lets its callers wait for [Object.StartTimeout] without taking
// one is killed and started again, and its callers are told so. There is no
// connection made only to find that out: it is seen by the length of the queue.
//
// # Observation
//
// An object whose release says observe is told of the calls that the node answers
// to callers of its own version, and of older ones whose objects run in the agent:
// each, in the order of the answers, as a POST of an [so.Observed] in JSON to
// [Object.Observe], a path that only the agent and the object know. An exec object
// finds it as MOULT_OBSERVED, and answers such a call at its address of any HTTP
// service: 204 when it has taken it in (durably, if its state is to be relied on),
// 503 to be told again, anything else if it cannot. It is told of the next one
// after that. To wasm objects the object host tells it, by a function of their own.
//
// Events are
//
//	begin    from here on it is told of every call
//	call     one call: the service, method, URI, headers and body, and the same of
//	         the answer. Bodies are base64, and cut at 64 KiB, with truncated: true.
//	         Status 0: the node may have carried it out, nobody knows.
//	missed   there were calls of which it is not told: it was too slow (1024 calls or
//	         16 MiB waited), could not take one in, or the agent was started anew; or
//	         an older caller's call went by an object in a process (wasm, exec, and
//	         rules whose expressions have no bound), which calls the node itself
//
// An object that cannot say how things stand after missed denies what depends on it,
// for good or until it has found out, by calls of its own, after the next begin. It
// has missed nothing that was before its first begin either, but does not know it.
// Nobody calls the object before it was told of all that was answered before.
// An event may come twice, with the same number, if the object ended while it took
// it in. Calls that the object makes itself are not told.
//
// A program ends with the agent, also where that is killed. What it has started itself
// may not: the next agent ends it ([EndLeftovers]) before it begins.
//
// Standard output and error go to the log, line by line, within bounds.
//
// # Where
//
// Everything works on Linux. On other systems there is no memory limit, a program
// that never listens is not found, and what escapes a program's process group is
// not ended.
package host
