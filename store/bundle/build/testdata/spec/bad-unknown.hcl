release {
  version = 1
  colour  = "blue"
  class "kv" {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "kv"
      sum  = "sha256:00"
    }
    comand = ["./kv"]
    health {
      notify   = true
      retries  = 3
    }
    limits {
      memory = 1
    }
  }
}
releases {}
