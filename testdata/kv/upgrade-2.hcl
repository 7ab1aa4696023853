# Takes the sample system from version 1 to version 2: another protocol, another
# file layout. Nodes of both versions, and clients of both, work together while
# it goes on.
#
#   go build -o build/ ./testdata/kv/cmd/...
#   moult bundle build -f testdata/kv/upgrade-2.hcl …

release {
  version = 2

  class "kv" {
    from = 1

    # One block for each platform of the cluster.
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "../../build/kv-v2"
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

    # Callers of version 1 at nodes of version 2, and the other way round.
    past {
      rules = "rules/past-2.hcl"
    }
    future {
      rules = "rules/future-2.hcl"
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
