release {
  version        = 2
  finalize_after = "0s"
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
      progress_deadline = "10m"
      wave {
        count = 1
        soak  = "10m"
      }
    }
  }
}
