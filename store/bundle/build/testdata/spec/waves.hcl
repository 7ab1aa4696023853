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
      max_unavailable = "10%"
      wave {
        count = 1
        soak  = "10m"
      }
      wave {
        labels = { zone = "test", disk = "ssd" }
      }
      wave {
        percent = 25
        soak    = "1h"
      }
      wave {
        each = "zone"
        soak = "2h"
      }
      wave {
        percent = 100
      }
      spread = "zone"
    }
  }
}
