# Every kind of object, and what may stand beside it.
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
    service "gossip" {
      protocol = "udp"
    }
    health {
      notify = true
    }
    past {
      exec         = ["./kv", "past"]
      retire_after = "168h"
      memory_max   = "256MiB"
    }
    future {
      wasm       = "future.wasm"
      observe    = true
      memory_max = 16777216
      timeout    = "500ms"
    }
  }
  class "line" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "line"
    }
    command = ["./line"]
    service "line" {
      protocol = "tcp"
    }
    health {
      notify = true
    }
    past {
      exec         = ["./line", "past"]
      retire_after = "24h"
    }
    future {
      exec    = ["./line", "future"]
      observe = false
    }
  }
  class "web" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "web"
    }
    command = ["./web"]
    service "api" {
      protocol = "http"
    }
    service "raw" {
      protocol = "tcp"
    }
    health {
      notify = true
    }
    past {
      compatible   = true
      retire_after = "1h"
    }
    future {
      rules = "future.hcl"
    }
  }
}
