release {
  version = 1
  class "kv" { artifact { os = "linux"  arch = "amd64"  path = "kv" } }
}
