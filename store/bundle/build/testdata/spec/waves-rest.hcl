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
      wave {
        count = 1
      }
      wave {
        percent = 100
        soak    = "1h"
      }
      spread     = "rack"
      spread_max = 2
    }
  }
}
