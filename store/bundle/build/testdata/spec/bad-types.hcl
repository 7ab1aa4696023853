release {
  version = "two"
  class "kv" {
    from = [1]
    artifact {
      os   = 1
      arch = ["amd64"]
      path = null
    }
    command = "./kv --state ${state}"
    service "api" {
      protocol = true
    }
    health {
      http     = 80
      interval = 1
    }
    transform {
      exec       = ["./kv", 1]
      memory_max = true
    }
    past {
      compatible = "yes"
    }
    future {
      refuse = 503
    }
    schedule {
      max_unavailable = true
      wave {
        count = "1"
      }
    }
  }
}
