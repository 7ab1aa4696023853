//go:build wasip1

// Command kvnames is a simulation object in Go, and shows what one can do. Its
// callers know version 1 of a service, and it calls version 2:
//
//	PUT /v1/{key} {"name": …}   becomes PUT /v2/{key} {"title": …}, and its answer's
//	                            "title" becomes "name"; /scan/v1/… does the same without
//	                            parsing the JSON whole
//	POST /v1/swap?a=…&b=…       version 2 has no swap: two reads and two writes
//	GET /v1/hits/{key}          how often a key was written through this object, which
//	                            version 2 does not know: it is in the object's state
//	DELETE /v1/{key}            version 2 has no deletion: denied
//	GET /v1/{panic,spin}        a fault
package main

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"

	"moult/testdata/wasm/guest"
)

func main() {}

const (
	done = uint64(0) // the guest has answered
	next = uint64(1) // the call goes on
	scan = uint64(2) << 32
)

//go:wasmexport handle_request
func handleRequest() uint64 {
	uri := guest.URI()
	guest.EnableFeatures(guest.BufferResponse)
	if path, ok := strings.CutPrefix(uri, "/scan/v1/"); ok {
		guest.SetURI("/v2/" + path)
		guest.SetBody(guest.Request, rename(guest.Body(guest.Request), "name", "title"))
		return scan | next
	}
	path, ok := strings.CutPrefix(uri, "/v1/")
	if !ok {
		return next
	}
	switch method := guest.Method(); {
	case method == "PUT":
		return put(path)
	case method == "POST" && strings.HasPrefix(path, "swap?"):
		swap(strings.TrimPrefix(path, "swap?"))
	case method == "GET" && strings.HasPrefix(path, "hits/"):
		answer(200, map[string]any{"hits": hits(strings.TrimPrefix(path, "hits/"))})
	case method == "GET" && path == "panic":
		panic("as asked for")
	case method == "GET" && path == "spin":
		for {
		}
	case method == "DELETE":
		guest.Deny(405, "version 2 keeps all that it has ever had")
	default:
		guest.SetURI("/v2/" + path)
		return next
	}
	return done
}

//go:wasmexport handle_response
func handleResponse(context, failed uint32) {
	if failed != 0 || guest.Status() != 200 {
		return
	}
	body := guest.Body(guest.Response)
	if uint64(context)<<32 == scan {
		guest.SetBody(guest.Response, rename(body, "title", "name"))
		return
	}
	var value map[string]any
	if json.Unmarshal(body, &value) != nil {
		return
	}
	move(value, "title", "name")
	guest.SetBody(guest.Response, encode(value))
}

func put(path string) uint64 {
	var value map[string]any
	if err := json.Unmarshal(guest.Body(guest.Request), &value); err != nil {
		answer(400, map[string]any{"error": err.Error()})
		return done
	}
	move(value, "name", "title")
	if !strings.HasPrefix(path, "bench") {
		if err := count(path); err != nil {
			guest.Deny(503, err.Error())
			return done
		}
	}
	guest.SetURI("/v2/" + path)
	guest.SetBody(guest.Request, encode(value))
	return next
}

// count counts a write of key. Other instances may count at the same time.
func count(key string) error {
	for {
		name := "hits/" + key
		old, ok := guest.Get(name)
		n, _ := strconv.Atoi(string(old))
		var b guest.Batch
		if ok {
			b.IfEqual(name, old)
		} else {
			b.IfAbsent(name)
		}
		b.Set(name, strconv.AppendInt(nil, int64(n+1), 10))
		b.Set("last", []byte(key))
		if err := b.Apply(); err != guest.ErrConflict {
			return err
		}
	}
}

func hits(key string) int {
	value, _ := guest.Get("hits/" + key)
	n, _ := strconv.Atoi(string(value))
	return n
}

// swap exchanges the values of two keys by four calls.
func swap(query string) {
	q, err := url.ParseQuery(query)
	if err != nil {
		answer(400, map[string]any{"error": err.Error()})
		return
	}
	a, b := "/v2/"+url.PathEscape(q.Get("a")), "/v2/"+url.PathEscape(q.Get("b"))
	bodies := map[string][]byte{}
	for _, step := range []struct{ method, uri, from string }{
		{"GET", a, ""}, {"GET", b, ""}, {"PUT", a, b}, {"PUT", b, a},
	} {
		call := guest.NewCall(step.method, step.uri)
		status, body, err := call.Do(bodies[step.from])
		if err != nil {
			call.Raise()
			return
		}
		if status != 200 {
			answer(status, map[string]any{"error": step.method + " " + step.uri + " failed"})
			return
		}
		if step.method == "GET" {
			bodies[step.uri] = body
		}
	}
	answer(200, map[string]any{"swapped": true})
}

func answer(status int, value any) {
	guest.SetStatus(status)
	guest.SetHeader(guest.Response, "Content-Type", "application/json")
	guest.SetBody(guest.Response, encode(value))
}

func encode(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return data
}

func move(value map[string]any, from, to string) {
	if v, ok := value[from]; ok {
		delete(value, from)
		value[to] = v
	}
}

// rename renames the fields from of the outermost object, without parsing what is
// in them.
func rename(data []byte, from, to string) []byte {
	out := make([]byte, 0, len(data)+16)
	depth, start, key := 0, 0, false
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '{':
			depth++
			key = depth == 1
		case '[':
			depth++
			key = false
		case '}', ']':
			depth--
		case ',':
			key = depth == 1
		case ':':
			key = false
		case '"':
			end := i + 1
			for end < len(data) && data[end] != '"' {
				if data[end] == '\\' {
					end++
				}
				end++
			}
			if end >= len(data) {
				return data
			}
			if key && bytes.Equal(data[i+1:end], []byte(from)) {
				out = append(append(out, data[start:i+1]...), to...)
				start = end
			}
			i = end
		}
	}
	return append(out, data[start:]...)
}
