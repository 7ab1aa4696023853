release {
  class "kv" {
    from = 1
    service "api" {}
    transform {}
    past {}
    schedule {
      wave {}
    }
  }
  class "auth" {
    artifact {}
    command = []
    health {}
    future {
      compatible = true
    }
    transform {
      exec = ["./auth", "migrate"]
    }
  }
}
