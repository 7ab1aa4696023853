release {
  version = 1
  class "KV" {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "kv"
    }
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "kv2"
    }
    artifact {
      os   = "Linux"
      arch = "x86-64"
      path = ""
    }
    command = ["./kv"]
    service "api" {
      protocol = "http"
    }
    service "api" {
      protocol = "grpc"
    }
    service "a_b" {
      protocol = "tcp"
    }
    health {
      tcp = true
    }
  }
  class "auth" {
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
  class "auth" {
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
