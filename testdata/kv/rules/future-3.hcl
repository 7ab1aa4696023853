# Callers of kv version 3, answered by a node that still runs version 2
# (package kv2).
#
# The renaming the other way round, and as perfect: see past-3.hcl.

call "GET /v3/entries/{key}" {
  next "GET /v2/keys/{key}" {}

  response "200" {
    body = "{key: .body.key, data: .body.value, revision: .body.revision, content_type: .body.content_type}"
  }
}

call "PUT /v3/entries/{key}" {
  next "PUT /v2/keys/{key}" {
    body = <<-JQ
      .body | with_entries(.key |= ({value: "data", data: "value"}[.] // .))
    JQ
  }
}

call "DELETE /v3/entries/{key}" {
  next "DELETE /v2/keys/{key}" {}
}

call "GET /v3/entries" {
  next "GET /v2/keys" {}
}

call "GET /healthz" {
  pass = true
}

default {
  deny {
    status = 404
    reason = "kv version 3 has no such call"
  }
}
