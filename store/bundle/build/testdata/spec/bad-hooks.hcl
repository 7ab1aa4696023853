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
      pre_stop   = ["./kv", "${state}"]
      post_start = "warm"
      timeout    = "1ms"
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
    hooks {
      timeout = "1m"
    }
    past {
      compatible = true
    }
    future {
      compatible = true
    }
  }
}
