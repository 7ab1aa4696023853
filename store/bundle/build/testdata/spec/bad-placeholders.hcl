release {
  version = 1
  class "kv" {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "build/kv"
    }
    command = ["./kv", "${service.apy.host}", "${service.api.hosts}", "${service.api.host.x}", "${vars}", "${vars.a.b}", "${vars["a b"]}", "${service[0]}", "${args.x}"]
    service "api" {
      protocol = "http"
    }
    service "my-gossip" {
      protocol = "udp"
    }
    health {
      exec = ["./kv", "--all=${args}"]
    }
  }
}
