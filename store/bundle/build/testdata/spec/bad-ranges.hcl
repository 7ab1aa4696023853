release {
  version = 2
  class "kv" {
    from = 2
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "kv"
    }
    command = ["", "serve"]
    service "api" {
      protocol = "http"
    }
    health {
      http             = "healthz"
      interval         = "1ms"
      min_healthy_time = "-1s"
      healthy_deadline = "5 minutes"
      drain_timeout    = "1000h"
    }
    transform {
      exec       = ["./kv", "migrate"]
      timeout    = "0s"
      memory_max = "512MB"
      disk_max   = "9999999999TiB"
    }
    past {
      refuse = "two\nlines"
    }
    future {
      refuse = ""
    }
    schedule {
      strategy        = "eventually"
      max_unavailable = "0%"
      wave {
        count = 1.5
        soak  = "90d"
      }
      on_failure {
        max = -1
      }
      hold_timeout = "2h"
    }
  }
}
