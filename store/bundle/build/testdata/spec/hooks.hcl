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
    hooks {
      pre_stop   = ["./kv", "leave"]
      post_start = ["./kv", "warm"]
      timeout    = "30s"
    }
    past {
      compatible = true
    }
    future {
      compatible = true
    }
  }
  class "web" {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "web"
    }
    command = ["./web"]
    health {
      notify = true
    }
    hooks {
      pre_stop = ["/bin/sync"]
    }
  }
}
