release {
  version = 1
  class "both" {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "kv"
    }
    command = ["./kv"]
    service "api" {
      protocol = "http"
    }
    health {
      http   = "/healthz"
      notify = true
    }
  }
  class "other" {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "kv"
    }
    command = ["./kv"]
    service "api" {
      protocol = "http"
    }
    health {
      http    = "/healthz"
      service = "admin"
    }
  }
  class "several" {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "kv"
    }
    command = ["./kv"]
    service "api" {
      protocol = "http"
    }
    service "ring" {
      protocol = "tcp"
    }
    health {
      tcp = true
    }
  }
  class "stream" {
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
      http = "/healthz"
    }
  }
  class "needless" {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "kv"
    }
    command = ["./kv"]
    health {
      notify  = true
      service = "api"
    }
  }
}
