release {
  version = 1
  class "kv" {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "build/kv"
    }
    command = ["./kv", "--region=${vars.region}", "${args}", "--host", service.api.host, "--port=${service["my-gossip"].port}", "$${HOME}", "$${state}", "$$$${x}"]
    service "api" {
      protocol = "http"
    }
    service "my-gossip" {
      protocol = "udp"
    }
    health {
      exec = ["./kv", "${service.api}", "${state}/check", vars.a_B-1]
    }
  }
}
