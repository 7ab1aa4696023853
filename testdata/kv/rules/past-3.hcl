# Callers of kv version 2, answered by a node of version 3 (package kv3).
#
# Version 3 only renamed things, so the simulation is perfect. Bodies of puts
# have the names value and data swapped, not just the one replaced: a field that
# the caller should not have sent is still refused, and none is dropped.

call "GET /v2/keys/{key}" {
  next "GET /v3/entries/{key}" {}

  response "200" {
    body = "{key: .body.key, value: .body.data, revision: .body.revision, content_type: .body.content_type}"
  }
}

call "PUT /v2/keys/{key}" {
  next "PUT /v3/entries/{key}" {
    body = <<-JQ
      .body | with_entries(.key |= ({value: "data", data: "value"}[.] // .))
    JQ
  }
}

call "DELETE /v2/keys/{key}" {
  next "DELETE /v3/entries/{key}" {}
}

call "GET /v2/keys" {
  next "GET /v3/entries" {}
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
