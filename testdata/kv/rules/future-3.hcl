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

example "a get, its fields renamed" {
  request "GET /v3/entries/a%2Fb" {}
  next "GET /v2/keys/a%2Fb" {
    answer "200" {
      body = <<-JSON
        {"key": "a/b", "value": "✓ 1e400", "revision": 12345678901234567890, "content_type": "text/plain"}
      JSON
    }
  }
  response "200" {
    body = <<-JSON
      {"key": "a/b", "data": "✓ 1e400", "revision": 12345678901234567890, "content_type": "text/plain"}
    JSON
  }
}

example "a put, its condition kept" {
  request "PUT /v3/entries/a" {
    body = <<-JSON
      {"data": "v", "content_type": "text/plain", "if_revision": 3}
    JSON
  }
  next "PUT /v2/keys/a" {
    body = <<-JSON
      {"value": "v", "content_type": "text/plain", "if_revision": 3}
    JSON
    answer "409" {
      body = <<-JSON
        {"error": "the key is at revision 4"}
      JSON
    }
  }
  response "409" {
    body = <<-JSON
      {"error": "the key is at revision 4"}
    JSON
  }
}

example "a field that is the other version's is not taken for one's own" {
  request "PUT /v3/entries/a" {
    body = <<-JSON
      {"value": "v"}
    JSON
  }
  next "PUT /v2/keys/a" {
    body = <<-JSON
      {"data": "v"}
    JSON
    answer "400" {}
  }
  response "400" {}
}

example "a delete" {
  request "DELETE /v3/entries/a" {}
  next "DELETE /v2/keys/a" {
    answer "200" {}
  }
  response "200" {}
}

example "the list" {
  request "GET /v3/entries" {}
  next "GET /v2/keys" {
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

example "a call of another version" {
  request "GET /get?k=a" {}
  denied {
    status = 404
  }
}
