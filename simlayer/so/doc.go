// Package so has simulation objects and their chain: how callers of one version
// of a service are answered by a node that runs another.
//
// An [Object] answers the callers of one version by making calls of a
// neighbouring version, and knows only these two. A pastSO of release N answers
// callers of N-1 at nodes of N; a futureSO of release N answers callers of N at
// nodes of N-1. [NewChain] puts objects one after the other, in process, so that
// callers may be several versions away. There are three kinds: [Compatible]
// (calls pass unchanged), [Refuse] (no call is answered) and [Rules] (a rules
// file, below).
//
// What cannot be simulated is refused, never guessed: see [Refusal].
//
// # Rules
//
// A rules file is HCL. It lists the calls that its callers make and what becomes
// of each. This one is the pastSO of a key-value store: version 1 had GET
// /get?k=…, PUT /set and GET /list, all values text; version 2 has /v2/keys/… and
// values of any content type.
//
//	call "GET /get" {
//	  query  = ["k"]                        # only calls with this parameter
//	  params = { key = ".query.k" }
//
//	  next "GET /v2/keys/{key}" {}
//
//	  response "200" {
//	    deny {
//	      when   = <<-JQ
//	        .body.content_type | startswith("text/") | not
//	      JQ
//	      status = 501
//	      reason = "the value is binary, which version 1 cannot show"
//	    }
//	    body = "{key: .body.key, value: .body.value}"
//	  }
//	}
//
//	call "PUT /set" {
//	  params = { key = ".body.key" }
//	  next "PUT /v2/keys/{key}" {
//	    body = "{value: .body.value}"
//	  }
//	  response "200" {
//	    body = "{key: .request.params.key}"
//	  }
//	}
//
//	call "GET /list" {
//	  next "GET /v2/keys" {}
//	}
//
//	call "GET /version" {
//	  answer {
//	    body = "{version: 1}"
//	  }
//	}
//
//	call "GET /healthz" {
//	  pass = true
//	}
//
//	call "* /admin/{rest...}" {
//	  deny {
//	    reason = "version 2 has no admin calls"
//	  }
//	}
//
//	default {
//	  deny {
//	    status = 404
//	    reason = "version 1 has no such call"
//	  }
//	}
//
// # Calls
//
// The label of a call is a method, or * for any, and a path pattern, with one
// space between them. {name} matches one segment that is not empty, and
// {name...}, which must come last, matches all that is left, if it is not empty.
// The value of {name} is decoded; that of {name...} stays percent-encoded, so that
// a %2F in it is not taken for a slash.
// Methods are compared exactly: GET does not match HEAD. Segments are compared
// after percent-decoding each, so a key with %2F in it is one segment.
//
// A call may narrow its pattern: query and headers list names of parameters and
// headers that must be present. The calls are tried in the order of the file, and
// the first that matches is taken. One that no call can reach, because an earlier
// one takes all, is an error in the file.
//
// A call has, in any order:
//
//	query, headers   conditions: lists of names
//	params           more parameters: name = "jq over the request"
//	deny             any number: see below
//	and exactly one of
//	next             makes the call of the other version, see below
//	answer           answers without a call
//	pass = true      the call goes on unchanged, and so does its response
//	deny without when: every such call is denied
//	response "…"     any number, only beside next: see below
//
// default says in the same words what becomes of calls that match nothing: it has
// deny, and one of pass, answer and deny without when. It must be there.
//
// # Expressions
//
// params, when and body are jq programs (gojq's dialect) in a string or a heredoc.
// A quoted string of HCL knows the escapes \" and \\ only, so a program with
// "…" or \(…) in it reads best as a heredoc. There are no modules, environment or
// input functions.
//
// Over a request the input is
//
//	{
//	  "method": "GET", "path": "/get",
//	  "params": {…},               # from the pattern (text), and from params
//	  "query": {"k": "first value"}, "query_all": {"k": ["every", "value"]},
//	  "headers": {"content-type": "…"},  # names in lower case, values joined by ", "
//	  "body": …
//	}
//
// and over a response
//
//	{"status": 200, "headers": {…}, "body": …, "request": {…}}
//
// A body is read and parsed only for an expression that has the word body in it:
// .body is there for these and absent for all others. In an expression over a
// response, .request.body is the caller's body and any other mention of body is
// the response's. An empty body is null. Numbers keep all their digits unless the
// program computes with them. What params computes can be used in all other
// expressions of the call, but not in params itself.
//
// when denies on every value but false, null and none at all. It must yield at
// most one value, and so must body: a body that yields none is empty. A param must
// yield exactly one; it is computed before deny is asked, so write .body.key? where
// a caller may send another shape, and .key? // null where nothing may come of it.
//
// # deny
//
//	when     optional, a jq program: without it every call is denied
//	status   400 to 599, by default 501
//	reason   what the caller is told, at most 1,000 bytes
//
// The denials of a call are tried in their order, before anything is sent on. A
// deny in a response works over the response: the call has then been carried out,
// so deny there what may be read but not shown, and deny what changes state before
// it is sent.
//
// # next
//
// The label is a method, or * for the caller's, and a path template, which may
// have a query: "GET /v2/keys/{key}?limit={n}". {name} stands for a parameter,
// percent-encoded so that it stays one segment or one value; {name...} stands for
// one that is encoded already, and may be several segments. A query parameter that is exactly one {name} which is null is left
// out; everywhere else a parameter must be a string that is not empty, a number
// or a boolean, or the call is refused with 400. A path segment that would become
// "." or ".." is refused too.
//
//	keep_query       true: the caller's query follows the template's
//	headers          name = "template" to set; "" removes the caller's header
//	body             a jq program over the request; without it the caller's body
//	                 goes on unchanged
//
// Without keep_query only the template's query is sent.
//
// # response
//
// The label is the status that it is for: "404", a class as in "2xx", or "*". The
// first in the order of the file is taken; a response that none is for goes back
// unchanged.
//
//	deny             any number, over the response
//	status           what the caller gets, 200 to 599; by default the same
//	headers          name = "template" to set; "" removes the response's header
//	body             a jq program over the response; without it the body goes back
//	                 unchanged
//
// # answer
//
//	status           by default 200
//	headers          name = "template"
//	body             a jq program over the request; without it there is none
//
// # Messages
//
// All headers that the rules do not name go on, except those that belong to one
// connection (Connection, Upgrade and so on). Where a rule makes a body, its
// Content-Type is application/json unless headers says otherwise,
// Content-Length is counted anew, and what described the old bytes
// (Content-Encoding, digests, trailers) is dropped. Where it reads or makes the body
// of a response, the node is not asked for an encoded or a partial one: Accept-Encoding,
// Range and If-Range do not go on.
//
// A mapped call is refused, as failed and not as denied, with
//
//	400  the caller's body is not the JSON that a rule needs, or a parameter cannot be used
//	413  the caller's body is over MaxBody bytes
//	415  the caller's body is encoded (Content-Encoding)
//	500  an expression over the request fails
//	502  the node's answer is not JSON, over MaxBody bytes or encoded, or an expression over it fails
//	508  the objects of a chain make more than MaxNextCalls calls to answer one
//
// Expressions have MaxEvaluation together for a request, and again for a response.
// A failure of the call to the node is no refusal of the object: the layer tries
// again or refuses it.
//
// # Refusals
//
// A refused caller gets the status, the header "Moult-Refusal: denied" (the
// author's deny) or "Moult-Refusal: error" (anything else), and
//
//	{"error": "the reason", "moult": {"denied": true, "from": 1, "to": 2}}
//
// where from is the caller's version and to the node's. A refusal of one object
// passes through the other objects of a chain untouched.
package so
