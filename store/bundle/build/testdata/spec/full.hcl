# Everything that this moult knows.
release {
  version = 2
  class "kv" {
    from = 1
    artifact {
      os   = "linux"
      arch = "arm64"
      path = "build/kv-v2-arm64"
      name = "kv"
    }
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "/srv/build/kv-v2"
    }
    command = ["./kv", "--state", "${state}", "--listen=${service.api}", "--peers", service.ring-1, "$${HOME}"]
    service "api" {
      protocol = "http"
    }
    service "ring-1" {
      protocol = "tcp"
    }
    health {
      exec             = ["./kv", "check", "${service.api}"]
      interval         = "500ms"
      min_healthy_time = "3s"
      healthy_deadline = "1m30s"
      drain_timeout    = "5s"
    }
    transform {
      exec       = ["./kv", "migrate"]
      timeout    = "10m"
      memory_max = "512MiB"
      disk_max   = 1048576
      reverse {
        exec = ["./kv", "back"]
      }
    }
    past {
      rules = "past.hcl"
    }
    future {
      refuse = "writes of version 2 need revisions"
    }
    schedule {
      strategy        = "rolling"
      max_unavailable = "10%"
      wave {
        count = 2
        soak  = "10m"
      }
      wave {
        percent = 100
      }
      on_failure {
        max  = 3
        then = "hold"
      }
      hold_timeout = "1m"
    }
  }
  class "auth" {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "auth"
    }
    command = ["auth"]
    health {
      notify = true
    }
    schedule {
      strategy = "at-once"
    }
  }
}
