release {
  version = 1
  class {
    command = ["./kv"]
  }
  class "a" "b" {
    command = ["./kv"]
  }
  class "kv" {
    service {
      protocol = "tcp"
    }
  }
}
