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
      after = ["kv", "web", "kv"]
      window {
        days     = ["Sun", "Sunday"]
        start    = "2 am"
        length   = "4h"
        timezone = "Local"
      }
      window {
        start    = "23:30"
        length   = "300h"
      }
    }
  }
}
