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
      strategy        = "random"
      max_unavailable = "10%"
      wave {
        count = 1
      }
      wave {
        count = 5
      }
      wave {
        percent = 50
      }
      window {
        days   = ["Sat", "Sun"]
        start  = "02:00"
        length = "4h"
      }
      when  = "self.load < 0.5"
      after = ["auth"]
      on_failure {
        max  = 1
        then = "abort"
      }
    }
  }
}
