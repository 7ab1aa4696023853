release {
  version = 2
  class "a" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "a"
    }
    command = ["./a"]
    service "api" {
      protocol = "http"
    }
    health {
      notify = true
    }
    past {
      wasm    = "past.wasm"
      observe = true
    }
    future {
      exec         = ["./a"]
      retire_after = "1h"
    }
  }
  class "b" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "b"
    }
    command = ["./b"]
    service "api" {
      protocol = "http"
    }
    health {
      notify = true
    }
    past {
      rules      = "past.hcl"
      memory_max = "1MiB"
      timeout    = "1s"
    }
    future {
      compatible = true
      observe    = true
    }
  }
  class "c" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "c"
    }
    command = ["./c"]
    service "line" {
      protocol = "tcp"
    }
    service "gossip" {
      protocol = "udp"
    }
    health {
      notify = true
    }
    past {
      rules = "past.hcl"
    }
    future {
      wasm = "future.wasm"
    }
  }
  class "d" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "d"
    }
    command = ["./d"]
    health {
      notify = true
    }
    past {
      rules = "past.hcl"
    }
    future {
      exec = ["./d"]
    }
  }
  class "e" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "e"
    }
    command = ["./e"]
    service "api" {
      protocol = "http"
    }
    health {
      notify = true
    }
    past {
      exec         = ["./e", "${state}", "${service.api}"]
      retire_after = "1ms"
    }
    future {
      wasm       = "future.wasm"
      timeout    = "2m"
      memory_max = "2TiB"
    }
  }
  class "f" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "f"
    }
    command = ["./f"]
    service "api" {
      protocol = "http"
    }
    health {
      notify = true
    }
    past {
      exec = []
    }
    future {
      wasm = "future.wasm"
      exec = ["./f"]
    }
  }
  class "g" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "g"
    }
    command = ["./g"]
    service "gossip" {
      protocol = "udp"
    }
    health {
      tcp = true
    }
    past {
      exec    = ["./g"]
      timeout = "1s"
    }
    future {
      refuse = "no"
    }
  }
}
