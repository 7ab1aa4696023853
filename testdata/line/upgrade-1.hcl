# Installs version 1 of the line system.
#
#   go build -o build/ ./testdata/line/cmd/...
#   moult bundle build -f testdata/line/upgrade-1.hcl …

release {
  version = 1

  class "line" {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "../../build/line-v1"
      name = "line"
    }

    command = ["./line", "serve", "--state", "${state}", "--listen", "${service.line}"]

    service "line" {
      protocol = "tcp"
    }

    health {
      tcp              = true
      min_healthy_time = "2s"
      healthy_deadline = "1m"
    }

    schedule {
      strategy = "at-once"
    }
  }
}
