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
    health {
      tcp = true
    }
    transform {
      object {
        jq = ".a = .b"
      }
      reverse {
        exec = ["./kv", "back"]
      }
    }
    past {
      compatible = true
    }
    future {
      compatible = true
    }
    schedule {
      on_failure {
        max  = 1
        then = "abort"
      }
    }
  }
}
