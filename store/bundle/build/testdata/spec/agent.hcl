release {
  version = 7
  agent {
    artifact {
      os   = "linux"
      arch = "arm64"
      path = "build/moult-arm64"
    }
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "build/moult-amd64"
    }
    max_unavailable  = "10%"
    healthy_deadline = "30s"
  }
}
