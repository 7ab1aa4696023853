release {
  version = 2
  class "kv" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "kv"
    }
    command = ["./kv"]
    health {
      notify = true
    }
    transform {
      exec = ["./kv", "migrate"]
    }
    rehearse {
      snapshot = ["./kv", "copy"]
      check    = ["./kv", "check"]
    }
    past {
      compatible = true
    }
    future {
      compatible = true
    }
  }
}
