# Callers of kv version 2, answered by a node that still runs version 1
# (package kv1).
#
# Reads and plain writes of text are simulated. Version 1 keeps no revisions, so
# every answer says revision 0, which in version 2 is "not known" and satisfies
# no condition. Saying 1 would be a lie with consequences: the node's state
# gives every key revision 1 when it is upgraded, whatever has been written
# since the caller looked; a write on the condition "still at 1" would then
# replace what somebody else wrote.
#
# Denied is what version 1 could not keep: conditions (it cannot compare and
# write in one step, and reading first would be a race), values of any type but
# text/plain (the type would be gone at the next read, and binary values cannot
# be kept at all), and deletes.

call "GET /v2/keys/{key}" {
  next "GET /get?k={key}" {}

  response "200" {
    body = <<-JQ
      {key: .body.key, value: .body.value, revision: 0, content_type: "text/plain"}
    JQ
  }
}

call "PUT /v2/keys/{key}" {
  deny {
    when   = ".body.if_revision != null"
    reason = "this node runs kv version 1, which keeps no revisions: a write with if_revision has to wait until it is upgraded"
  }

  deny {
    when   = <<-JQ
      .body.content_type // "" | ascii_downcase | . != "" and . != "text/plain"
    JQ
    reason = "this node runs kv version 1, which keeps plain text only: a value of another content_type has to wait until it is upgraded"
  }

  # Version 2 takes no other fields.
  deny {
    when   = <<-JQ
      .body | objects | keys - ["value", "content_type", "if_revision"] != []
    JQ
    status = 400
    reason = "the body has fields other than value, content_type and if_revision"
  }

  next "PUT /set" {
    body = "{key: .params.key, value: .body.value}"
  }

  response "200" {
    body = "{key: .body.key, revision: 0}"
  }
}

call "DELETE /v2/keys/{key}" {
  deny {
    reason = "this node runs kv version 1, which cannot delete: the key has to stay until the node is upgraded"
  }
}

call "GET /v2/keys" {
  next "GET /list" {}
}

call "GET /healthz" {
  pass = true
}

default {
  deny {
    status = 404
    reason = "kv version 2 has no such call"
  }
}

example "a get says what is not known" {
  request "GET /v2/keys/a%20b" {}
  next "GET /get?k=a+b" {
    answer "200" {
      body = <<-JSON
        {"key": "a b", "value": "v"}
      JSON
    }
  }
  response "200" {
    body = <<-JSON
      {"key": "a b", "value": "v", "revision": 0, "content_type": "text/plain"}
    JSON
  }
}

example "a put of plain text" {
  request "PUT /v2/keys/a" {
    body = <<-JSON
      {"value": "v", "content_type": "text/plain"}
    JSON
  }
  next "PUT /set" {
    body = <<-JSON
      {"key": "a", "value": "v"}
    JSON
    answer "200" {
      body = <<-JSON
        {"key": "a"}
      JSON
    }
  }
  response "200" {
    body = <<-JSON
      {"key": "a", "revision": 0}
    JSON
  }
}

example "a condition cannot be kept" {
  request "PUT /v2/keys/a" {
    body = <<-JSON
      {"value": "v", "if_revision": 3}
    JSON
  }
  denied {
    status = 501
    reason = "this node runs kv version 1, which keeps no revisions: a write with if_revision has to wait until it is upgraded"
  }
}

example "a type cannot be kept" {
  request "PUT /v2/keys/a" {
    body = <<-JSON
      {"value": "AA==", "content_type": "image/png"}
    JSON
  }
  denied {
    status = 501
  }
}

example "no delete" {
  request "DELETE /v2/keys/a" {}
  denied {
    status = 501
  }
}

example "the list" {
  request "GET /v2/keys" {}
  next "GET /list" {
    answer "200" {}
  }
  response "200" {}
}

example "a health check" {
  request "GET /healthz" {}
  next "GET /healthz" {
    answer "200" {}
  }
  response "200" {}
}

example "a field that version 2 would refuse reaches nobody" {
  request "PUT /v2/keys/a" {
    body = <<-JSON
      {"value": "v", "ttl": 3}
    JSON
  }
  denied {
    status = 400
    reason = "the body has fields other than value, content_type and if_revision"
  }
}
