# Callers of kv version 1, answered by a node of version 2 (package kv2).
#
# The simulation is perfect for all that version 1 could say: its values are
# what version 2 calls text/plain, its set is a put without a condition, and
# what goes by in between (revisions, content types) it never saw. Read repair
# is a get like any other; its header Kv-Repair goes on.
#
# What cannot be simulated is a value that is no text: version 1 has no way to
# show it, so its get is denied. It is not hidden: /list names its key, because
# a set of that key would replace it, and a 404 would invite one.

call "GET /get" {
  params = { key = ".query.k" }

  next "GET /v2/keys/{key}" {}

  response "200" {
    deny {
      when   = <<-JQ
        .body.content_type | startswith("text/") | not
      JQ
      status = 406
      reason = "the value is binary: only callers of kv version 2 and later can read it"
    }
    body = "{key: .body.key, value: .body.value}"
  }
}

call "PUT /set" {
  params = { key = ".body.key" }

  # Version 1 took no other fields. Were they dropped here, a mistake would go
  # through that it used to report.
  deny {
    when   = <<-JQ
      .body | objects | keys - ["key", "value"] != []
    JQ
    status = 400
    reason = "the body has fields other than key and value"
  }

  next "PUT /v2/keys/{key}" {
    body = "{value: .body.value}"
  }

  response "200" {
    body = "{key: .body.key}"
  }
}

call "GET /list" {
  next "GET /v2/keys" {}
}

call "GET /healthz" {
  pass = true
}

default {
  deny {
    status = 404
    reason = "kv version 1 has no such call"
  }
}
