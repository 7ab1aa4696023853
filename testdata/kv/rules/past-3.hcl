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

example "a get, its fields renamed" {
  request "GET /v2/keys/a%2Fb" {}
  next "GET /v3/entries/a%2Fb" {
    answer "200" {
      body = <<-JSON
        {"key": "a/b", "data": "✓ 1e400", "revision": 12345678901234567890, "content_type": "text/plain"}
      JSON
    }
  }
  response "200" {
    body = <<-JSON
      {"key": "a/b", "value": "✓ 1e400", "revision": 12345678901234567890, "content_type": "text/plain"}
    JSON
  }
}

example "a put, its condition kept" {
  request "PUT /v2/keys/a" {
    body = <<-JSON
      {"value": "v", "content_type": "text/plain", "if_revision": 3}
    JSON
  }
  next "PUT /v3/entries/a" {
    body = <<-JSON
      {"data": "v", "content_type": "text/plain", "if_revision": 3}
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
  request "PUT /v2/keys/a" {
    body = <<-JSON
      {"data": "v"}
    JSON
  }
  next "PUT /v3/entries/a" {
    body = <<-JSON
      {"value": "v"}
    JSON
    answer "400" {}
  }
  response "400" {}
}

example "a delete" {
  request "DELETE /v2/keys/a" {}
  next "DELETE /v3/entries/a" {
    answer "200" {}
  }
  response "200" {}
}

example "the list" {
  request "GET /v2/keys" {}
  next "GET /v3/entries" {
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
