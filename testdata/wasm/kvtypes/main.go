//go:build wasip1

// Command kvtypes is both simulation objects of the step from kv version 1 to 2, for
// nodes that have no peers. Unlike the rules for it, it keeps state, and so denies
// less:
//
// As the future object it takes values of every content type from callers of version
// 2. The node of version 1 keeps the value, as text or base64; the object keeps its
// type, for the value that was written: a value that a caller of version 1 has written
// since has none. The transform gives both to the new node. (A node that asks peers
// of version 1 for a key would get the value without its type, which no object sees:
// there types would have to be denied.)
//
// As the past object it goes on showing to callers of version 1 those values that
// they have seen so, as the transform has noted. Other binary values are denied.
//
// The form of the state is described in moult/testdata/kv/kv2.
package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"moult/testdata/wasm/guest"
)

func main() {}

const (
	done = uint64(0) // the guest has answered
	next = uint64(1) // the call goes on

	// What handle_response is to do.
	asIs     = uint64(0) << 32
	typed    = uint64(1) << 32 // a value of version 1, for a caller of version 2
	put      = uint64(2) << 32
	untyped  = uint64(3) << 32 // and the other way round
	unputted = uint64(4) << 32

	root = "/v2/keys/"
	// maxTypes bounds the values of one key whose types are remembered: writes that
	// are under way at one time.
	maxTypes = 16
)

//go:wasmexport handle_request
func handleRequest() uint64 {
	guest.EnableFeatures(guest.BufferResponse)
	call, uri := guest.Method()+" ", guest.URI()
	path, query, _ := strings.Cut(uri, "?")
	switch {
	case call+path == "GET /healthz":
		return asIs | next
	case guest.From() > guest.To():
		return future(call, path)
	}
	return past(call, path, query)
}

func future(call, path string) uint64 {
	escaped, ofKey := strings.CutPrefix(path, root)
	key, err := url.PathUnescape(escaped)
	switch {
	case call+path == "GET /v2/keys":
		guest.SetURI("/list")
		return asIs | next
	case !ofKey || err != nil:
		guest.Deny(404, "kv version 2 has no such call")
	case call == "GET ":
		guest.SetURI("/get?k=" + url.QueryEscape(key))
		return typed | next
	case call == "PUT ":
		return futurePut(key)
	case call == "DELETE ":
		guest.Deny(501, "this node runs kv version 1, which cannot delete: the key has to stay until the node is upgraded")
	default:
		guest.Deny(404, "kv version 2 has no such call")
	}
	return done
}

func futurePut(key string) uint64 {
	var body struct {
		Value       *string `json:"value"`
		ContentType string  `json:"content_type"`
		IfRevision  *int64  `json:"if_revision"`
	}
	if err := decode(guest.Body(guest.Request), &body); err != nil || body.Value == nil {
		guest.Deny(400, "the body has fields other than value, content_type and if_revision, or no value")
		return done
	}
	if body.IfRevision != nil {
		guest.Deny(501, "this node runs kv version 1, which keeps no revisions: a write with if_revision has to wait until it is upgraded")
		return done
	}
	kind := strings.ToLower(body.ContentType)
	if kind == "" {
		kind = "text/plain"
	}
	if kind != "text/plain" || typeOf(key, *body.Value) != "" {
		if _, err := base64.StdEncoding.Strict().DecodeString(*body.Value); err != nil && !strings.HasPrefix(kind, "text/") {
			guest.Deny(400, "a value that is no text goes as base64")
			return done
		}
		// Before the value: a type without it says nothing.
		if err := note(key, *body.Value, kind); err != nil {
			guest.Deny(503, "the type cannot be kept: "+err.Error())
			return done
		}
	}
	guest.SetURI("/set")
	guest.SetBody(guest.Request, encode(map[string]string{"key": key, "value": *body.Value}))
	return put | next
}

// note keeps the type of a value.
func note(key, value, kind string) error {
	name := "types-" + hash(key)
	for {
		old, ok := guest.Get(name)
		var types []entry
		var b guest.Batch
		if ok {
			types = entries(old)
			b.IfEqual(name, old)
		} else {
			b.IfAbsent(name)
		}
		types = slices.DeleteFunc(types, func(e entry) bool { return e.value == hash(value) })
		types = append(types, entry{hash(value), kind})
		b.Set(name, store(types[max(0, len(types)-maxTypes):]))
		if err := b.Apply(); err != guest.ErrConflict {
			return err
		}
	}
}

// entry is a value with its type; entries are in the order in which they came.
type entry struct{ value, kind string }

func entries(data []byte) (all []entry) {
	in := json.NewDecoder(strings.NewReader(string(data)))
	var words []string
	for t, err := in.Token(); err == nil; t, err = in.Token() {
		if word, ok := t.(string); ok {
			words = append(words, word)
		}
	}
	for pair := range slices.Chunk(words, 2) {
		if len(pair) == 2 {
			all = append(all, entry{pair[0], pair[1]})
		}
	}
	return all
}

func store(all []entry) []byte {
	var b strings.Builder
	b.WriteByte('{')
	for i, e := range all {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(encode(e.value))
		b.WriteByte(':')
		b.Write(encode(e.kind))
	}
	return []byte(b.String() + "}")
}

func past(call, path, query string) uint64 {
	switch call + path {
	case "GET /list":
		guest.SetURI("/v2/keys")
		return asIs | next
	case "GET /get":
		q, err := url.ParseQuery(query)
		if err == nil {
			guest.SetURI(root + url.PathEscape(q.Get("k")))
			return untyped | next
		}
	case "PUT /set":
		var body struct{ Key, Value *string }
		if err := decode(guest.Body(guest.Request), &body); err != nil || body.Key == nil || body.Value == nil {
			guest.Deny(400, "the body has fields other than key and value, or not both")
			return done
		}
		guest.SetURI(root + url.PathEscape(*body.Key))
		guest.SetBody(guest.Request, encode(map[string]string{"value": *body.Value}))
		return unputted | next
	}
	guest.Deny(404, "kv version 1 has no such call")
	return done
}

//go:wasmexport handle_response
func handleResponse(context, failed uint32) {
	if failed != 0 || guest.Status() != 200 || context == uint32(asIs>>32) {
		return
	}
	var got struct {
		Key         string `json:"key"`
		Value       string `json:"value"`
		ContentType string `json:"content_type"`
	}
	if err := json.Unmarshal(guest.Body(guest.Response), &got); err != nil {
		guest.Deny(502, "the node's answer is no JSON")
		return
	}
	answer := map[string]any{"key": got.Key}
	switch uint64(context) << 32 {
	case typed:
		answer["value"], answer["revision"], answer["content_type"] = got.Value, 0, "text/plain"
		if kind := typeOf(got.Key, got.Value); kind != "" {
			answer["content_type"] = kind
		}
	case put:
		answer["revision"] = 0
	case untyped:
		shown, _ := guest.Get("shown-" + hash(got.Key))
		if !strings.HasPrefix(got.ContentType, "text/") && string(shown) != hash(got.Value) {
			guest.Deny(406, "the value is binary: only callers of kv version 2 and later can read it")
			return
		}
		answer["value"] = got.Value
	}
	guest.SetBody(guest.Response, encode(answer))
}

func typeOf(key, value string) string {
	data, _ := guest.Get("types-" + hash(key))
	types := map[string]string{}
	for _, e := range entries(data) {
		types[e.value] = e.kind
	}
	return types[hash(value)]
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// decode reads JSON without fields that into has not.
func decode(data []byte, into any) error {
	in := json.NewDecoder(strings.NewReader(string(data)))
	in.DisallowUnknownFields()
	return in.Decode(into)
}

func encode(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return data
}
