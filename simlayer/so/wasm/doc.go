// Package wasm runs simulation objects that are WebAssembly guests.
//
// [Open] takes a binary module and makes an [so.Object] of it. The guest is a
// handler of http-wasm (https://http-wasm.io, the ABI http-handler), an existing
// convention with guest libraries for several languages, and may import functions of
// the module "moult" beside, for further calls of the other version, durable state
// and denials: see below. WASI (wasi_snapshot_preview1) is there for the sake of
// language runtimes, without files, arguments or environment; what a guest writes to
// its standard output and errors is logged.
//
// The host side of http-wasm is written here, on wazero, with the constants of
// http-wasm's own Go host, and passes that host's test suite (its TCK). That host
// itself does not fit: it puts guests that have trapped back to use, has no bound on
// their number, closes its whole runtime when one instance fails to start, and reads
// bodies of any size.
//
// # Guarantees
//
// A guest fails its own call and nothing else. Its module is rewritten when it is
// loaded (package fuel), so that it is ended at its deadline, however it spins, and
// never holds up a garbage collection or another call for more than about a
// millisecond of straight code, or what it takes to fill its memory once. Memory, time, bodies,
// headers, calls to next, log lines, state and the number of instances are bounded:
// see [Limits]. A call that fails is an *so.Refusal:
//
//	the author's   the guest has denied the call
//	400, 408, 413  the caller's body cannot be read, does not come, is too large
//	500            the guest has trapped, exited, or misused a function
//	502            the node's body, which the guest wants, is too large
//	503            all instances are busy for longer than WaitTime, or the object is closed
//	504            the guest has not answered within CallTime
//	508            the guest makes more than NextCalls calls to next
//
// A failure of next comes out as it is, if it is the call that the guest sends on, or
// one that it raises. An instance serves one call at a time, from its first to its
// last instruction, with the calls to next between; then it serves another, with its
// memory as it is, unless it has failed. So a guest may keep what it computes once,
// but nothing that it must not lose: that is what state is for.
//
// # The handler
//
// The guest exports memory, handle_request: () -> i64 and handle_response: (i32,
// i32) -> (), and if it needs to, _initialize or _start: () -> (), which is called
// once for each instance. All functions of the host module http_handler are there,
// and all features (buffer_request, buffer_response, trailers). Where that ABI leaves
// things to its host:
//
//   - reading the caller's body never takes it from next; buffer_request changes nothing.
//   - headers that belong to one connection do not go on with a call that the guest
//     has changed or read; with buffer_response, neither do Accept-Encoding, Range and
//     If-Range, unless the guest sets them, so that it reads plain and whole bodies.
//   - Content-Length is always counted by the host.
//   - a header, method, URI or status that HTTP does not allow ends the call.
//
// # The module moult, version 1
//
// Numbers are i32, and unsigned, if nothing else is said. Text and bytes are passed
// as two numbers, where they are in the guest's memory and how long they are. Where
// the guest gives a buffer (buf, limit), the function returns the length of what it
// has, and writes it to the buffer only if it fits: ask with limit 0, or ask again. A
// list (list: i64) is texts with a NUL after each; its count is in the upper and its
// length in the lower half of the result. A pointer outside of the memory, a number
// that names nothing, or a name or value that is not allowed ends the call with 500
// and a text that says so. Results below zero are what a guest can deal with:
//
//	-1 not found   -2 the call to next failed   -3 conflict   -4 full
//
// Later versions only add functions. All but the first four end a guest that calls
// them while it starts.
//
//	abi_version() -> i32                 1
//	from_version() -> i64                the callers' version
//	to_version() -> i64                  the version that next calls
//	log(level i32, text, len)            as http_handler.log: -1 debug, 0 info, 1 warn, 2 error
//
//	deny(status, reason, len)            the caller gets status (0: 501) and reason,
//	                                     whatever the guest does else. It does not end the
//	                                     guest: return after it. The first one counts.
//
// A call to next has a number, made by next_new, until the guest's own call ends.
// Calls are made one after the other. Bodies of requests are sent with next_send.
//
//	next_new(method, len, uri, len) -> i32            without headers
//	next_copy_headers(call)                           the caller's, without those of its connection
//	                                                  and those about its body and conditions
//	next_set_header(call, name, len, value, len)
//	next_add_header(call, name, len, value, len)
//	next_write_body(call, bytes, len)                 appends
//	next_send(call) -> i32                            the status, or -2
//	next_header_names(call, buf, limit) -> list       in lower case and in order
//	next_header_values(call, name, len, buf, limit) -> list
//	next_read_body(call, buf, limit) -> i64           the next bytes: their number in the lower
//	                                                  half, 1 in the upper half after the last
//	next_error(call, buf, limit) -> i32               why it failed, as text
//	next_raise(call)                                  the caller gets the failure of this call:
//	                                                  if it was refused, that refusal, and if the
//	                                                  node is away, the whole call may be tried
//	                                                  again. Return after it.
//	next_close(call)                                  frees what the answer holds
//
// State is keys and values. Keys are UTF-8 without NUL, values any bytes. A change
// is durable when the function returns, whatever becomes of the call; what several
// instances do at once is not ordered, so whoever changes what it has read uses a
// condition.
//
//	state_get(key, len, buf, limit) -> i64            the length of the value, or -1
//	state_set(key, len, value, len) -> i32            0 or -4
//	state_delete(key, len) -> i32                     0, also if there was none
//	state_list(prefix, len, after, len, buf, limit) -> list
//	                                                  the first keys after after, as many as fit;
//	                                                  an empty list at the end
//	state_apply(ops, len) -> i32                      all operations or none: 0, -3 or -4
//
// An operation of state_apply is a byte (0 delete, 1 set, 2 only if the key has this
// value, 3 only if the key is not there), the lengths of key and value, four bytes
// each, little-endian, the key and the value. Conditions hold or fail before anything
// is changed.
//
// # Observing
//
// A guest whose release says observe is told of the calls that the node answers to
// callers of its own version: see package host for what that is good for, and what
// is promised. It exports handle_observed: (i32) -> (), which is called with
//
//	0  begin    from here on it is told of every call
//	1  call     one call; all functions of http_handler that read tell of it: method, URI,
//	            headers, bodies, trailers, and the status, 0 where no answer came
//	2  missed   there were, or may have been, calls of which it is not told
//
// one after the other, never two at once, but beside calls of its callers. What it
// changes of the call is lost; it may call next, and has the limits that it has for a
// call. An event counts as taken in when the guest has returned. Where it fails, or
// denies, missed follows. What is to be known later belongs in the state. Of the event
// tell
//
//	observed_number() -> i64             rises; an event that comes again has the same
//	observed_missed() -> i64             how many calls missed is about, 0 if that is not known
//	observed_truncated() -> i32          1 if there was more of the request's body, 2 of the
//	                                     answer's, 3 of both
//	observed_service(buf, limit) -> i32  the name of the service
//	observed_why(buf, limit) -> i32      why calls were missed, for people
//
// [FileKV] keeps state as plain files, so that a transform can read and make it. Where
// the object has ended by a crash, [RecoverFileKV] comes first.
package wasm
