# Facts, and conditions over them.
release {
  version = 2
  class "kv" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "kv"
    }
    command = ["./kv"]
    service "api" {
      protocol = "http"
    }
    service "ring" {
      protocol = "tcp"
    }
    health {
      tcp     = true
      service = "api"
    }
    past {
      compatible = true
    }
    future {
      compatible = true
    }
    fact "height" {
      http    = "/status"
      service = "api"
      pointer = "/chain/0/a~1b"
      every   = "1s"
      timeout = "500ms"
    }
    fact "errors" {
      http       = "/metrics"
      service    = "api"
      prometheus = "http_errors_total{code=\"500\", path=\"/a,b\"}"
      step       = 0.01
    }
    fact "queue_len" {
      exec = ["./kv", "queue", "$${HOME}"]
    }
    schedule {
      when    = "self.facts.height >= 1200000.0"
      hold_if = <<-EOT
        settled.errors.p50 > 2.0 * others.errors.p50 + 0.01
          || settled.queue_len.max > 1000.0
      EOT
    }
  }
}
