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
      exec = ["./kv", "check"]
    }
    past {
      compatible = true
    }
    future {
      compatible = true
    }
    schedule {
      strategy          = "random"
      rate              = 10
      progress_deadline = "59m"
    }
  }
}
