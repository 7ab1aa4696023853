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
      reverse {
        exec = ["./kv", "back"]
      }
    }
    past {
      compatible = true
    }
    future {
      compatible = true
    }
  }
  class "web" {
    from = 1
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "web"
    }
    command = ["./web"]
    health {
      notify = true
    }
    transform {
      exec = ["./web", "migrate"]
      reverse {
        exec = "back"
      }
    }
    past {
      compatible = true
    }
    future {
      compatible = true
    }
  }
}
