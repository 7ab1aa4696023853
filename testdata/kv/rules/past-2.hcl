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

example "a key with a slash is one key" {
  request "GET /get?k=a%2Fb" {}
  next "GET /v2/keys/a%2Fb" {
    answer "200" {
      body = <<-JSON
        {"key": "a/b", "value": "✓ 1e400", "revision": 3, "content_type": "text/plain"}
      JSON
    }
  }
  response "200" {
    body = <<-JSON
      {"key": "a/b", "value": "✓ 1e400"}
    JSON
  }
}

example "what is not there is not there" {
  request "GET /get?k=a" {}
  next "GET /v2/keys/a" {
    answer "404" {
      body = <<-JSON
        {"error": "not found"}
      JSON
    }
  }
  response "404" {
    body = <<-JSON
      {"error": "not found"}
    JSON
  }
}

example "a binary value is not shown" {
  request "GET /get?k=a" {}
  next "GET /v2/keys/a" {
    answer "200" {
      body = <<-JSON
        {"key": "a", "value": "AA==", "revision": 1, "content_type": "image/png"}
      JSON
    }
  }
  denied {
    status = 406
    reason = "the value is binary: only callers of kv version 2 and later can read it"
  }
}

example "a set is a put without a condition" {
  request "PUT /set" {
    body = <<-JSON
      {"key": "a", "value": "v"}
    JSON
  }
  next "PUT /v2/keys/a" {
    body = <<-JSON
      {"value": "v"}
    JSON
    answer "200" {
      body = <<-JSON
        {"key": "a", "revision": 4}
      JSON
    }
  }
  response "200" {
    body = <<-JSON
      {"key": "a"}
    JSON
  }
}

example "a field that version 1 would refuse reaches nobody" {
  request "PUT /set" {
    body = <<-JSON
      {"key": "a", "value": "v", "if_revision": 1}
    JSON
  }
  denied {
    status = 400
  }
}

example "the list" {
  request "GET /list" {}
  next "GET /v2/keys" {
    answer "200" {
      body = <<-JSON
        {"keys": ["a", "b"]}
      JSON
    }
  }
  response "200" {
    body = <<-JSON
      {"keys": ["a", "b"]}
    JSON
  }
}

example "a health check" {
  request "GET /healthz" {}
  next "GET /healthz" {
    answer "200" {}
  }
  response "200" {}
}

example "a call of version 2, from a caller that is none" {
  request "GET /v2/keys/a" {}
  denied {
    status = 404
  }
}
