# Takes the sample system from version 2 to version 3: the same with other names.
# Nodes and clients of all three versions can be there while it goes on: what is
# two versions away is answered in two steps.
#
#   go build -o build/ ./testdata/kv/cmd/...
#   moult bundle build -f testdata/kv/upgrade-3.hcl …

release {
  version = 3

  class "kv" {
    from = 2

    # One block for each platform of the cluster.
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "../../build/kv-v3"
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

    # Reads the old state in $MOULT_OLD, makes the new one in $MOULT_NEW.
    transform {
      exec    = ["./kv", "migrate"]
      timeout = "10m"
    }

    # Callers of version 2 at nodes of version 3, and the other way round.
    past {
      rules = "rules/past-3.hcl"
    }
    future {
      rules = "rules/future-3.hcl"
    }

    # One node first; if it is well for five seconds the others follow, one at a
    # time. The first node that fails stops them all.
    schedule {
      strategy        = "rolling"
      max_unavailable = "10%"
      wave {
        count = 1
        soak  = "5s"
      }
      on_failure {
        max  = 1
        then = "hold"
      }
      hold_timeout = "30s"
    }
  }
}
