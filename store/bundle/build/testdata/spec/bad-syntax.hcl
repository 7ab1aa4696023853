release {
  version = 1
  class "kv" {
    command = ["./kv"
  }
}
