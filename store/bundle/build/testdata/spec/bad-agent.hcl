release {
  version = 7
  agent {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "build/moult"
      name = "agent"
    }
    artifact {
      os   = "linux"
      arch = "amd64"
    }
    max_unavailable = 0
    healthy_deadline = "2s"
  }
}
