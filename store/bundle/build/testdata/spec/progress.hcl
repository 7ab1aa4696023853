release {
  version        = 2
  finalize_after = "24h"
  class "kv" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "kv"
    }
    command = ["./kv"]
    health {
      exec = ["./kv", "check"]
    }
    past {
      compatible = true
    }
    future {
      compatible = true
    }
    schedule {
      progress_deadline = "30m"
      wave {
        count = 1
        soak  = "10m"
      }
    }
  }
}
