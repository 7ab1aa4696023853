package wasm

import (
	"errors"
	"net/http"
	"slices"

	"moult/simlayer/so"
)

// The module of functions that moult adds to those of http-wasm.
const (
	ModuleName = "moult"
	// ABIVersion is the version of that module; see the package's doc.
	ABIVersion = 1
)

// What functions return that can fail in ways that a guest can deal with.
const (
	codeNotFound = -1 // no such key
	codeFailed   = -2 // the call to next has failed
	codeConflict = -3 // a condition of a batch does not hold
	codeFull     = -4 // a bound of the state
)

func code(n int64) uint64 { return uint64(n) }

func code32(n int32) uint64 { return uint64(uint32(n)) }

// outgoing is a call to next that a guest builds.
type outgoing struct {
	req     *http.Request
	request message
	resp    *http.Response
	answer  message
	err     error
	sent    bool
}

func (h *outgoing) close() {
	if h.resp != nil && !h.answer.loaded {
		discard(h.resp.Body)
	}
	h.resp, h.answer = nil, message{}
}

var moultModule = hostModule{ModuleName, slices.Concat(observedFunctions, []hostFunction{
	{name: "abi_version", results: "i", anytime: true, run: func(_ *instance, s []uint64) { s[0] = ABIVersion }},
	{name: "from_version", results: "I", anytime: true, run: func(in *instance, s []uint64) { s[0] = uint64(in.o.config.From) }},
	{name: "to_version", results: "I", anytime: true, run: func(in *instance, s []uint64) { s[0] = uint64(in.o.config.To) }},
	{name: "log", params: "iii", anytime: true, run: logLine},
	{name: "deny", params: "iii", run: deny},

	{name: "next_new", params: "iiii", results: "i", run: nextNew},
	{name: "next_copy_headers", params: "i", run: nextCopyHeaders},
	{name: "next_set_header", params: "iiiii", run: func(in *instance, s []uint64) { nextHeader(in, s, false) }},
	{name: "next_add_header", params: "iiiii", run: func(in *instance, s []uint64) { nextHeader(in, s, true) }},
	{name: "next_write_body", params: "iii", run: func(in *instance, s []uint64) {
		in.unsent(s[0]).request.write(in, in.bytes(s[1], s[2]))
	}},
	{name: "next_send", params: "i", results: "i", run: nextSend},
	{name: "next_header_names", params: "iii", results: "I", run: func(in *instance, s []uint64) {
		s[0] = putList(in, s[1], s[2], names(in.answered(s[0]).answer.header))
	}},
	{name: "next_header_values", params: "iiiii", results: "I", run: func(in *instance, s []uint64) {
		h := in.answered(s[0])
		s[0] = putList(in, s[3], s[4], h.answer.header.Values(in.text(s[1], s[2])))
	}},
	{name: "next_read_body", params: "iii", results: "I", run: func(in *instance, s []uint64) {
		h := in.answered(s[0])
		in.call.loadResponse(&h.answer, h.resp)
		s[0] = h.answer.read(in, s[1], s[2])
	}},
	{name: "next_error", params: "iii", results: "i", run: func(in *instance, s []uint64) {
		text := ""
		if h := in.handle(s[0]); h.err != nil {
			text = h.err.Error()
		}
		s[0] = put(in, s[1], s[2], text)
	}},
	{name: "next_raise", params: "i", run: nextRaise},
	{name: "next_close", params: "i", run: func(in *instance, s []uint64) {
		h := in.handle(s[0])
		in.pause(h.close)
	}},

	{name: "state_get", params: "iiii", results: "I", run: stateGet},
	{name: "state_set", params: "iiii", results: "i", run: func(in *instance, s []uint64) {
		s[0] = apply(in, []Op{{Set, in.text(s[0], s[1]), in.bytes(s[2], s[3])}})
	}},
	{name: "state_delete", params: "ii", results: "i", run: func(in *instance, s []uint64) {
		s[0] = apply(in, []Op{{Kind: Delete, Key: in.text(s[0], s[1])}})
	}},
	{name: "state_list", params: "iiiiii", results: "I", run: stateList},
	{name: "state_apply", params: "ii", results: "i", run: func(in *instance, s []uint64) {
		ops, err := decodeOps(in.bytes(s[0], s[1]))
		if err != nil {
			misuse("the guest applies a batch that cannot be read: %v", err)
		}
		s[0] = apply(in, ops)
	}},
})}

// deny refuses the call by the author's word. The first denial counts.
func deny(in *instance, s []uint64) {
	status, reason := uint32(s[0]), in.bytes(s[1], s[2])
	if status != 0 && (status < 400 || status > 599) {
		misuse("the guest denies with the status %d, want 400 to 599, or 0", status)
	}
	if in.call.denied == nil {
		in.call.denied = so.Deny(int(status), string(reason[:min(len(reason), MaxReason)]))
	}
}

func (in *instance) handle(n uint64) *outgoing {
	if i := int64(uint32(n)); i < int64(len(in.call.handles)) {
		return in.call.handles[i]
	}
	misuse("the guest uses the call %d, which it has not made", uint32(n))
	return nil
}

func (in *instance) unsent(n uint64) *outgoing {
	h := in.handle(n)
	if h.sent {
		misuse("the guest changes the call %d when it has been sent", uint32(n))
	}
	return h
}

func (in *instance) answered(n uint64) *outgoing {
	h := in.handle(n)
	if h.resp == nil {
		misuse("the guest reads the answer to the call %d, which has none", uint32(n))
	}
	return h
}

func nextNew(in *instance, s []uint64) {
	c := in.call
	if len(c.handles) == in.o.config.Limits.NextCalls {
		c.calls = in.o.config.Limits.NextCalls
		stop(c.count())
	}
	req := c.req.WithContext(c.req.Context())
	req.Method = method(in, s[0], s[1])
	target := uri(in, s[2], s[3])
	u := *c.req.URL
	u.Path, u.RawPath, u.RawQuery, u.ForceQuery = target.Path, target.RawPath, target.RawQuery, target.ForceQuery
	req.URL, req.RequestURI, req.Header = &u, "", http.Header{}
	h := &outgoing{req: req}
	c.handles = append(c.handles, h)
	s[0] = uint64(len(c.handles) - 1)
}

// ofCall are headers that say something about one call and its body, so that
// another call does not have them.
var ofCall = []string{
	"Content-Length", "Content-Type", "Content-Encoding", "Content-Language", "Content-Range", "Content-Md5",
	"Content-Digest", "Repr-Digest", "Digest", "Accept-Encoding", "Range", "Expect",
	"If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since",
}

func nextCopyHeaders(in *instance, s []uint64) {
	h := in.unsent(s[0])
	copied := in.call.req.Header.Clone()
	endToEnd(copied)
	for _, name := range ofCall {
		copied.Del(name)
	}
	for name, values := range copied {
		h.req.Header[name] = values
	}
}

func nextHeader(in *instance, s []uint64, add bool) {
	setHeader(in, in.unsent(s[0]).req.Header, in.text(s[1], s[2]), in.text(s[3], s[4]), add)
}

func nextSend(in *instance, s []uint64) {
	h := in.unsent(s[0])
	c := in.call
	if err := c.count(); err != nil {
		stop(err)
	}
	h.sent = true
	setRequestBody(h.req, h.request.out, nil)
	in.pause(func() { h.resp, h.err = c.next.RoundTrip(h.req) })
	in.check()
	if h.err != nil {
		s[0] = code32(codeFailed)
		return
	}
	h.answer = message{header: h.resp.Header, source: h.resp.Body, length: bodyLength(h.resp, h.req.Method)}
	s[0] = uint64(h.resp.StatusCode)
}

// nextRaise ends the call with the failure of a call to next, as it came.
func nextRaise(in *instance, s []uint64) {
	h := in.handle(s[0])
	if h.err == nil {
		misuse("the guest passes on the failure of the call %d, which has not failed", uint32(s[0]))
	}
	if in.call.raised == nil {
		in.call.raised = h.err
	}
}

func (in *instance) state() KV {
	if in.o.config.State == nil {
		misuse("the guest uses state, but this object has none")
	}
	return in.o.config.State
}

func stateGet(in *instance, s []uint64) {
	value, ok, err := in.state().Get(in.text(s[0], s[1]))
	if err != nil {
		stateFailed(in, err)
	}
	if !ok {
		s[0] = code(codeNotFound)
		return
	}
	s[0] = put(in, s[2], s[3], value)
}

func stateList(in *instance, s []uint64) {
	limit := uint64(uint32(s[5]))
	keys, err := in.state().List(in.text(s[0], s[1]), in.text(s[2], s[3]), int(min(limit/2+1, 1024)))
	if err != nil {
		stateFailed(in, err)
	}
	var n, size int
	for n < len(keys) && uint64(size+len(keys[n])+1) <= limit {
		size += len(keys[n]) + 1
		n++
	}
	if n == 0 && len(keys) > 0 {
		misuse("the guest lists keys into %d bytes, but the next has %d", limit, len(keys[0])+1)
	}
	s[0] = putList(in, s[4], limit, keys[:n])
}

// apply changes the state.
func apply(in *instance, ops []Op) uint64 {
	err := in.state().Apply(ops)
	in.check() // it has waited for the disk
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrConflict):
		return code32(codeConflict)
	case errors.Is(err, ErrFull):
		return code32(codeFull)
	case errors.Is(err, ErrKey):
		misuse("the guest changes the state: %v", err)
	}
	stateFailed(in, err)
	return 0
}

func stateFailed(in *instance, err error) {
	in.o.config.Log.Error("wasmStateFailed", "object", in.o.name(), "err", err)
	stop(so.Fail(http.StatusInternalServerError, err, "%s cannot use its state", in.o.name()))
}
