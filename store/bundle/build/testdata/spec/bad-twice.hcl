release {
  version = 1
}
release {
  class "kv" {
    health {
      notify = true
    }
    health {
      tcp = true
    }
  }
}
release {
  version = 3
}
