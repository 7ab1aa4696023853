# Takes the line system from version 1 to version 2: another protocol over raw
# TCP, another file layout. Nodes and clients of both versions work together while
# it goes on, by two programs that translate, one for each direction.
#
#   go build -o build/ ./testdata/line/cmd/...
#   moult bundle build -f testdata/line/upgrade-2.hcl …

release {
  version = 2

  class "line" {
    from = 1

    artifact {
      os   = "linux"
      arch = "amd64"
      path = "../../build/line-v2"
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

    # Reads the old state in $MOULT_OLD and the future object's in
    # $MOULT_FUTURE_STATE, makes the new one in $MOULT_NEW.
    transform {
      exec    = ["./line", "migrate"]
      timeout = "10m"
    }

    # Callers of version 1 at nodes of version 2, and the other way round.
    past {
      exec = ["./line", "past"]
    }
    future {
      exec = ["./line", "future"]
    }

    schedule {
      strategy        = "rolling"
      max_unavailable = "1"
      hold_timeout    = "30s"
    }
  }
}
