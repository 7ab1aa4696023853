release {
  version = 2
  class "auth" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "auth"
    }
    command = ["./auth"]
    health {
      exec = ["./auth", "check"]
    }
    past {
      compatible = true
    }
    future {
      compatible = true
    }
  }
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
      after = ["auth"]
      window {
        days     = ["Sun", "Sat"]
        start    = "02:00"
        length   = "4h"
        timezone = "Europe/Zurich"
      }
      window {
        start    = "23:30"
        length   = "45m"
        timezone = "UTC"
      }
    }
  }
}
