//go:build wasip1

// Command writes is a futureSO in Go that observes. Its callers know version 2 of a
// service, which counts the writes; version 1, which it calls, does not. So it counts
// those that it is told of:
//
//	GET /v2/writes   how many writes the node has carried out since the object is
//	                 there; denied once it may have missed one
//	anything else    goes on as it is
//
// The count is in its state, under writes; the number of the last event that is in
// it, under last; and why it cannot be relied on any more, under lost. A transform
// reads them there.
package main

import (
	"strconv"

	"moult/testdata/wasm/guest"
)

func main() {}

//go:wasmexport handle_request
func handleRequest() uint64 {
	if guest.Method() != "GET" || guest.URI() != "/v2/writes" {
		return 1
	}
	if why, lost := guest.Get("lost"); lost {
		guest.Deny(409, "how many writes there were is not known: "+string(why))
		return 0
	}
	n, _ := guest.Get("writes")
	if n == nil {
		n = []byte("0")
	}
	guest.SetHeader(guest.Response, "Content-Type", "application/json")
	guest.SetBody(guest.Response, []byte(`{"writes":`+string(n)+`}`))
	return 0
}

//go:wasmexport handle_response
func handleResponse(context, failed uint32) {}

//go:wasmexport handle_observed
func handleObserved(kind uint32) {
	switch kind {
	case guest.ObservedMissed:
		lose(guest.ObservedWhy())
	case guest.ObservedCall:
		switch method, status := guest.Method(), guest.Status(); {
		case method == "GET" || method == "HEAD" || status >= 400:
		case status == 0:
			lose("a write got no answer")
		default:
			count()
		}
	}
}

func lose(why string) {
	if guest.Set("lost", []byte(why)) != nil {
		panic("the state is full")
	}
}

// count counts a write, unless it is in the count already: the event may come again.
func count() {
	number := strconv.AppendUint(nil, guest.ObservedNumber(), 10)
	if last, _ := guest.Get("last"); string(last) == string(number) {
		return
	}
	old, _ := guest.Get("writes")
	n, _ := strconv.Atoi(string(old))
	var b guest.Batch
	b.Set("writes", strconv.AppendInt(nil, int64(n+1), 10))
	b.Set("last", number)
	if b.Apply() != nil {
		panic("the state is full")
	}
}
