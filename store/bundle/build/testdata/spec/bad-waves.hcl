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
        count  = 1
        each   = "zone"
      }
      wave {
      }
      wave {
        percent = 50
      }
      wave {
        percent = 25
      }
      wave {
        percent = 100
      }
      wave {
        labels = {}
      }
      wave {
        labels = { zone = 1 }
      }
      wave {
        each = ""
      }
      wave {
        count = 0
      }
      spread_max = 1
    }
  }
}
