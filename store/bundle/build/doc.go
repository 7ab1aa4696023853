// Package build makes a release from what a person wrote: it reads upgrade.hcl
// (Load), packs and cuts the software, signs the manifest by a trust folder and
// writes the .moult file (Build).
//
// # The release spec
//
// upgrade.hcl is HCL (https://github.com/hashicorp/hcl). Paths are relative to
// its folder. Attributes without a default are required.
//
//	release {
//	  version = 2                      # of the whole system, once this release is everywhere
//	  class "kv" {                     # one block for each class that changes
//	    from = 1                       # version - 1; left out: the class is installed
//	    artifact {                     # one block for each platform
//	      os   = "linux"               # as in GOOS
//	      arch = "amd64"               # as in GOARCH
//	      path = "build/kv-v2"         # a folder, or one file
//	      name = "kv"                  # of the one file on the nodes; default: its own name
//	    }
//	    command = ["./kv", "--state", "${state}", "--listen", "${service.api}"]
//	    service "api" {
//	      protocol = "http"            # or "tcp"
//	    }
//	    health {                       # exactly one of http, tcp, exec, notify
//	      http             = "/healthz"   # or tcp = true; or exec = [argv]; or notify = true
//	      service          = "api"     # for http and tcp; default: the only service
//	      interval         = "1s"      # default
//	      min_healthy_time = "10s"     # default
//	      healthy_deadline = "5m"      # default
//	      drain_timeout    = "30s"     # default
//	    }
//	    transform {                    # default: the state is copied as it is
//	      exec       = ["./kv", "migrate"]
//	      timeout    = "1h"            # default
//	      memory_max = "512MiB"        # or a number of bytes; default: no bound
//	      disk_max   = "10GiB"         # the same
//	    }
//	    past {                         # callers of version 1; exactly one attribute
//	      rules = "past.hcl"           # or compatible = true; or refuse = "why"
//	    }
//	    future {                       # callers of version 2, on nodes that still run 1
//	      rules = "future.hcl"
//	    }
//	    schedule {                     # default: the defaults below
//	      strategy        = "rolling"  # default; or "at-once", "manual"
//	      max_unavailable = "10%"      # or a number of nodes; default 1; not for at-once
//	      wave {                       # the canary, for rolling; default: none
//	        count = 1
//	        soak  = "10m"              # default 0s
//	      }
//	      wave {                       # the rest; may be left out
//	        percent = 100
//	      }
//	      on_failure {
//	        max  = 1                   # default: nodes held before the rollout stops; 0: never
//	        then = "hold"              # default
//	      }
//	      hold_timeout = "30s"         # default: how long a call may wait for its node
//	    }
//	  }
//	}
//
// past and future are required where from is there, and refused where it is
// not: somebody has to decide how the callers of a neighbouring version are
// answered. ${state} and ${service.NAME} stand for what only a node's agent
// knows, in command and health.exec; they go into the manifest as they are. A
// transform finds its folders in its environment instead (MOULT_OLD, MOULT_NEW).
//
// What the language of a later moult knows and this one does not (windows,
// conditions, order between classes, transforms of objects, reverse transforms,
// wasm and exec objects, more waves) is refused by name, never ignored.
//
// # Reproducible
//
// The same spec, sources and history make the same manifest, and so the same
// digest, in any folder and at any time: archive.Pack leaves times, owners and
// places out, and the cuts of chunks depend on content alone.
package build
