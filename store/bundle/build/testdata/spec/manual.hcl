release {
  version = 7
  class "kv" {
    from = 6
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "kv"
    }
    command = ["./kv"]
    service "api" {
      protocol = "tcp"
    }
    health {
      tcp = true
    }
    past {
      compatible = true
    }
    future {
      compatible = true
    }
    schedule {
      strategy        = "manual"
      max_unavailable = 3
      wave {
        percent = 100
      }
      on_failure {
        max = 0
      }
    }
  }
}
