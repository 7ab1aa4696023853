release {
  version = 1 + other
  class "kv" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "build/${state}"
    }
    command = ["./kv", "--listen", "${service.apy}", "--state", "${stat}", "${service}", upper("x")]
    service "api" {
      protocol = "http"
    }
    service "admin" {
      protocol = "http"
    }
    health {
      exec = ["./kv", "${service["api"]}"]
    }
    transform {
      exec = ["./kv", "migrate", "${state}"]
    }
    past {
      refuse = "see ${service.api}"
    }
    future {
      compatible = true
    }
  }
}
