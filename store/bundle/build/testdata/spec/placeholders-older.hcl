release {
  version = 1
  class "kv" {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "build/kv"
    }
    command = ["./kv", "${service.api}", "$${HOME}", "a $ $${args}", "${"${state}"}"]
    service "api" {
      protocol = "http"
    }
    service "my-gossip" {
      protocol = "udp"
    }
    health {
      exec = ["./kv", "${service["my-gossip"]}"]
    }
  }
}
