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
      notify = true
    }
    past {
      rules      = "past.hcl"
      compatible = true
    }
    future {
      compatible = false
    }
    schedule {
      strategy        = "at-once"
      max_unavailable = 2
      wave {
        count = 1
      }
      wave {
        count   = 1
        percent = 100
      }
    }
  }
  class "auth" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "auth"
    }
    command = ["./auth"]
    health {
      notify = true
    }
  }
}
