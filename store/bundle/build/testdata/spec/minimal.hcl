release {
  version = 1
  class "kv" {
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
      http = "/healthz"
    }
  }
}
