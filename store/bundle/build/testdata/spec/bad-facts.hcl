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
    service "api" {
      protocol = "http"
    }
    service "ring" {
      protocol = "tcp"
    }
    health {
      tcp     = true
      service = "api"
    }
    past {
      compatible = true
    }
    future {
      compatible = true
    }
    fact "err-ors" {
      http = "/status"
    }
    fact "a" {
      http    = "/status"
      service = "ring"
      pointer = "a"
    }
    fact "a" {
      http       = "status"
      service    = "api"
      prometheus = "a{"
      pointer    = "/a"
    }
    fact "b" {
      exec    = ["./kv"]
      pointer = "/a"
      every   = "1ms"
      step    = -1
    }
    fact "c" {
    }
    fact "d" {
      http = "/a"
      exec = ["./kv"]
      step = "much"
    }
    schedule {
      when    = "self.facts.aa > 1.0 && \"x\" == 2"
      hold_if = <<-EOT
        settled.a.p50 > 1.0
          || settled.a.p51 > 1.0
      EOT
    }
  }
  class "kv2" {
    artifact {
      os   = "linux"
      arch = "amd64"
      path = "kv"
    }
    command = ["./kv"]
    health {
      notify = true
    }
    fact "a" {
      exec = ["./kv"]
    }
    schedule {
      when    = "self.facts.height >= 1200000.0"
      hold_if = "[1,2,3,4,5,6,7,8].all(a, [1,2,3,4,5,6,7,8].all(b, [1,2,3,4,5,6,7,8].all(c, [1,2,3,4,5,6,7,8].all(d, a+b+c+d > 3))))"
    }
  }
}
