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
//	example "a get names its key in the path" {
//	  request "GET /get?k=a%2Fb" {}
//	  next "GET /v2/keys/a%2Fb" {
//	    answer "200" {
//	      body = <<-JSON
//	        {"key": "a/b", "value": "v", "revision": 3, "content_type": "text/plain"}
//	      JSON
//	    }
//	  }
//	  response "200" {
//	    body = <<-JSON
//	      {"key": "a/b", "value": "v"}
//	    JSON
//	  }
//	}
//
//	example "a binary value cannot be shown" {
//	  request "GET /get?k=a" {}
//	  next "GET /v2/keys/a" {
//	    answer "200" {
//	      body = <<-JSON
//	        {"key": "a", "value": "AA==", "revision": 3, "content_type": "image/png"}
//	      JSON
//	    }
//	  }
//	  denied {
//	    status = 501
//	    reason = "the value is binary, which version 1 cannot show"
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
// headers that must be present, and when is a jq program over the request that must hold. The calls are tried in the order of the file, and
// the first that matches is taken. One that no call can reach, because an earlier
// one takes all, is an error in the file.
//
// A call has, in any order:
//
//	query, headers   conditions: lists of names
//	when             a condition: jq over the request
//	params           more parameters: name = "jq over the request"
//	deny             any number: see below
//	step             any number: calls before the last one, see below
//	and exactly one of
//	next             makes the call of the other version, see below
//	answer           answers without another call; any number of answers with when may
//	                 stand before, and the first that holds is given
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
//	  "body": …,
//	  "form": {…}, "form_all": {…},      # a body of application/x-www-form-urlencoded,
//	                                     # as query and query_all; then body is null
//	  "steps": {…}, "item": …      # see below
//	}
//
// and over a response
//
//	{"status": 200, "headers": {…}, "body": …, "request": {…}, "steps": {…}}
//
// What an expression reads is what was sent. A query is taken as it stands: a semicolon,
// or a percent sign that begins no %XX, is part of a name or a value. Servers read such a
// query in several ways, so where the rules have gone by the query of a call (by a
// condition, or in an expression) and it would go on as it is (pass, keep_query), the
// call is refused with 400. Text that is not UTF-8 cannot be read: an expression that
// mentions it fails with 400, or with 502 where it is in an answer; one that does not
// mention it does not see it. A header that is not sent is absent, User-Agent as well.
//
// A body is read and parsed only for an expression that has the word body in it:
// .body is there for these and absent for all others. In an expression over a
// response, .request.body is the caller's body; .steps.NAME.body is that of a step;
// any other mention of body is the message's own. An empty body is null. Numbers keep all their digits unless the
// program computes with them. What params computes can be used in all other
// expressions of the call, but not in the same params. step, next, answer and
// response have params of their own, computed just before, which see what happened
// up to there.
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
//	params, headers, body, text, form   as answer has them: the caller's own protocol has
//	         another form for errors than moult's (see Refusals, below)
//
// The denials of a call are tried in their order, before anything is sent on. A
// deny in a response works over the response: the call has then been carried out,
// so deny there what may be read but not shown, and deny what changes state before
// it is sent.
//
// # step
//
// A step is a call before the last one. Steps are made in the order of the file,
// after the denials of the call, and what comes after sees their responses as
// .steps.NAME.status, .headers and .body. Here version 1 has an append, and a get of
// many keys at once; version 2 has neither, but conditional puts:
//
//	call "POST /append" {
//	  params = { key = ".body.key" }
//
//	  step "old" "GET /v2/keys/{key}" {
//	    expect = ["200", "404"]
//	  }
//
//	  next "PUT /v2/keys/{key}" {
//	    body = <<-JQ
//	      {
//	        value: ((.steps.old.body.value // "") + .body.value),
//	        if_revision: (.steps.old.body.revision // 0)
//	      }
//	    JQ
//	  }
//	  response "200" {
//	    body = "{key: .request.params.key}"
//	  }
//	  response "412" {
//	    deny {
//	      status = 409
//	      reason = "somebody else wrote this key just now: append again"
//	    }
//	  }
//	}
//
//	call "POST /multi-get" {
//	  step "each" "GET /v2/keys/{key}" {
//	    foreach = ".body.keys"
//	    params  = { key = ".item" }
//	    expect  = ["200", "404"]
//	  }
//	  answer {
//	    body = "{values: (.steps.each | map(.body.value))}"
//	  }
//	}
//
//	default {
//	  deny {
//	    reason = "version 1 has no such call"
//	  }
//	}
//
//	example "append is a get and a put on its condition" {
//	  request "POST /append" {
//	    body = <<-JSON
//	      {"key": "a", "value": "2"}
//	    JSON
//	  }
//	  next "GET /v2/keys/a" {
//	    answer "200" {
//	      body = <<-JSON
//	        {"value": "1", "revision": 7}
//	      JSON
//	    }
//	  }
//	  next "PUT /v2/keys/a" {
//	    body = <<-JSON
//	      {"value": "12", "if_revision": 7}
//	    JSON
//	    answer "412" {}
//	  }
//	  denied {
//	    status = 409
//	  }
//	}
//
// The labels of a step are its name and what next's label is. It has
//
//	when             a jq program over the request; where it does not hold the step is
//	                 left out and .steps.NAME is null
//	foreach          a jq program over the request that yields an array: one call is made
//	                 for each item, one after the other, and .steps.NAME is the array of
//	                 the responses, each with its item as .item. In the step, .item is the
//	                 item that it is about
//	params           parameters for this step only, computed for each call
//	keep_query, headers, body, text   as next has them; without body and text a step
//	                 sends no body
//	expect           statuses with which the call goes on, by default ["2xx"]
//	deny             any number, over the response, where its status is expected
//	response "…"     any number, as beside next: what the caller gets for a status that
//	                 is not expected. That ends the call
//
// A status that is neither expected nor answered refuses the call with 502. The
// headers of the caller go on with each step but for those about its body, encodings,
// ranges and conditions (If-Match and so on). If some expression reads bodies of
// steps, they must be JSON; one whose status is no success may be anything, and is
// null if it is no JSON. An answer or a deny after steps that change something has to
// be written with care: what they did is done.
//
// # next
//
// The label is a method, or * for the caller's, and a path template, which may
// have a query: "GET /v2/keys/{key}?limit={n}". {name} stands for a parameter,
// percent-encoded so that it stays one segment or one value; {name...} stands for
// one that is encoded already, and may be several segments. A query parameter that is exactly one {name} which is null is left
// out; everywhere else a parameter must be a string, a number or a boolean, and not empty
// where it is in a path, or the call is refused with 400. A path segment that would become
// "." or ".." is refused too.
//
//	params           more parameters, also for its responses: name = "jq over the request"
//	keep_query       true: the caller's query follows the template's
//	headers          name = "template" to set; "" removes the caller's header
//	body             a jq program over the request, or
//	text             a template; without both the caller's body goes on unchanged
//
// Without keep_query only the template's query is sent. A query parameter that is exactly
// one {name...} stands for an array: "?filter={f...}" gives one filter for each of its
// values, and none for null.
//
// form makes a body of application/x-www-form-urlencoded in the way of a query:
// form = "name={name}&tag={tags...}". It may stand wherever text may.
//
// # response
//
// The label is the status that it is for: "404", a class as in "2xx", or "*". The
// first in the order of the file is taken; a response that none is for goes back
// unchanged, and so does the refusal of an object further on.
//
//	deny             any number, over the response
//	params           more parameters: name = "jq over the response"
//	status           what the caller gets, 200 to 599, or a jq program that computes it,
//	                 as deny and answer may have it, too; by default the same
//	headers          name = "template" to set; "" removes the response's header
//	body             a jq program over the response, or
//	text             a template; without both the body goes back unchanged
//
// # answer
//
//	params           more parameters: name = "jq over the request"
//	when             a jq program over the request
//	status           by default 200
//	headers          name = "template"
//	body             a jq program over the request, or
//	text             a template; without both there is none
//
// # text
//
// text makes a body that is not JSON; its Content-Type is text/plain unless headers
// says otherwise. {name} stands for a parameter as it is, which may be empty here,
// and {{ and }} stand for braces.
//
// # Examples
//
// A rules file carries its own tests, which [Rules.Test] and `moult rules test` run
// and which serving ignores. An example has a title and
//
//	request "GET /get?k=a"   headers, body: what the caller sends
//	next "GET /v2/keys/a"    headers, body: the calls that the node must get, in their
//	                         order, as they stand in the request line; and in each
//	  answer "200"           headers, body: what the node answers
//	and exactly one of
//	response "200"           headers, body: what the caller must get
//	denied                   status, reason, headers, body: the author's deny, reason word
//	                         for word
//	refused                  status, reason, headers, body: a failure, whose reason contains
//	                         this one
//
// What is not said is not compared. Bodies are compared as JSON where both are JSON,
// and otherwise as text but for a newline at the end; body = "" wants none. A header ""
// must not be there. A body that is JSON is sent as application/json unless
// headers says otherwise.
//
// # Bounded expressions
//
// Rules.Bounded reports whether every expression of a file has a bounded form: then
// the time and the memory of a call are linear in its bodies, and the rules may run
// in the agent's own process. Package [moult/simlayer/so/jq] lists what is of that form.
// Anything else is done by gojq, and does the same more slowly.
//
// # Messages
//
// All headers that the rules do not name go on, except those that belong to one
// connection (Connection, Upgrade and so on; "Te: trailers" goes on, for gRPC). Where
// a rule makes a body, its
// Content-Type is application/json unless headers says otherwise,
// Content-Length is counted anew, and what described the old bytes
// (Content-Encoding, digests, trailers) is dropped, and a strong ETag becomes a weak one. Answers of status 204, 205 and 304
// have no body, and one to a HEAD whose body is mapped no length: nobody knows that of
// what a GET would get. Where it reads or makes the body
// of a response, the node is not asked for an encoded or a partial one: Accept-Encoding,
// Range and If-Range do not go on.
//
// A mapped call is refused, as failed and not as denied, with
//
//	400  the caller's body is not the JSON that a rule needs, a parameter cannot be used,
//	     or a foreach has no array or one of more than MaxNextCalls items
//	413  the caller's body is over MaxBody bytes
//	415  the caller's body is encoded (Content-Encoding)
//	500  an expression over the request fails
//	502  the node's answer is not JSON, over MaxBody bytes or encoded, or an expression
//	     over it fails, or a step's status is neither expected nor answered
//	508  the objects of a chain make more than MaxNextCalls calls to answer one
//
// Expressions have jq.MaxDuration together for a request and its steps, and again for
// a response; what passes while the node works does not count. Numbers of more than
// 1,000 bytes are refused as no JSON: computing with them takes too long.
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
//
// A file may say another form for all of them, those included that moult itself makes
// while the node is down or does not answer:
//
//	refusal {
//	  body = "{error: {message: .reason}}"
//	}
//
// It has params, status (400 to 599), headers, body, text and form as answer has them, over
//
//	{"status": 501, "denied": true, "reason": "…", "from": 1, "to": 2, "retry_after": 0}
//
// Moult-Refusal stays. What a deny says itself comes first; of a chain the callers' own
// object counts. What is refused before the object is known, or in a process of another
// object, has moult's form, as has a refusal where the expressions of this one fail.
//
// A caller by gRPC (Content-Type application/grpc…) gets gRPC's own form, a response of
// trailers only: status 200, grpc-status, the reason in grpc-message, and Moult-Refusal.
// grpc-status is 3 for 400, 16 for 401, 7 for 403, 5 for 404, 10 for 409, 9 for 412, 14 for
// 429 and 503, 4 for 504; otherwise 12 (unimplemented) for what was denied and for 501, 13
// from 500 on, and 2.
package so
