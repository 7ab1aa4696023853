# Installs version 1 of the sample system on nodes that have none.
#
#   go build -o build/ ./testdata/kv/cmd/...
#   moult bundle build -f testdata/kv/upgrade-1.hcl …

release {
  version = 1

  class "kv" {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "../../build/kv-v1"
      name = "kv"
    }

    command = ["./kv", "--state", "${state}", "--listen", "${service.api}"]

    service "api" {
      protocol = "http"
    }

    health {
      http             = "/healthz"
      min_healthy_time = "2s"
      healthy_deadline = "1m"
    }
  }
}
