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
//	    from = 1                       # version - 1 (the one before what is withdrawn); left out: the class is installed
//	    artifact {                     # one block for each platform
//	      os   = "linux"               # as in GOOS
//	      arch = "amd64"               # as in GOARCH
//	      path = "build/kv-v2"         # a folder, or one file
//	      name = "kv"                  # of the one file on the nodes; default: its own name
//	    }
//	    command = ["./kv", "--state", "${state}", "--listen", "${service.api}"]
//	    service "api" {
//	      protocol = "http"            # or "tcp", "udp"
//	    }
//	    health {                       # exactly one of http, tcp, exec, notify
//	      http             = "/healthz"   # or tcp = true; or exec = [argv]; or notify = true
//	      service          = "api"     # for http and tcp; default: the only service
//	      interval         = "1s"      # default
//	      min_healthy_time = "10s"     # default
//	      healthy_deadline = "5m"      # default
//	      drain_timeout    = "15s"     # default: for calls to end, and then for the software;
//	                                   # at most half of hold_timeout
//	    }
//	    transform {                    # default: the state is copied as it is
//	      exec       = ["./kv", "migrate"]
//	      timeout    = "1h"            # default
//	      memory_max = "512MiB"        # or a number of bytes; default: no bound
//	      disk_max   = "10GiB"         # the same
//	      reverse {                    # default: none, and the release cannot be taken back; agents
//	                                   # can do it, and no command of this moult has them do it
//	        exec = ["./kv", "back"]    # the other way, within the same bounds; default: a copy
//	      }
//	    }
//	    rehearse {                     # default: none; each node tries the release on a copy of its
//	                                   # own state, with no way out, before it goes down
//	      check    = ["./kv", "check"] # must exit 0 once the software is healthy on the copy; it
//	                                   # finds the addresses in MOULT_SERVICE_API (of version 2) and
//	                                   # MOULT_PAST_API (as callers of version 1 are answered)
//	      snapshot = ["./kv", "copy"]  # makes the copy, of MOULT_OLD in MOULT_NEW; default: files
//	                                   # are copied as they are, while the software writes to them
//	      timeout  = "1h"              # default, of all of it
//	    }
//	    past {                         # callers of version 1; exactly one of the first five
//	      rules        = "past.hcl"    # a file of rules (package simlayer/so)
//	      # wasm       = "past.wasm"   # a module (package simlayer/so/wasm)
//	      # exec       = ["./kv", "past"]   # a program of the artifact (package simlayer/host)
//	      # compatible = true          # calls pass unchanged
//	      # refuse     = "why"         # callers are shown it
//	      retire_after = "24h"         # default: without a call for so long it may go
//	      # memory_max = "64MiB"       # for wasm and exec; default: moult's own bound
//	      # timeout    = "1s"          # for wasm, of one call; default: moult's own bound
//	    }
//	    future {                       # callers of version 2, on nodes that still run 1
//	      exec    = ["./kv", "future"] # the same, but not retire_after
//	      observe = true               # for wasm and exec: it sees the calls of version 1 too
//	    }
//	    fact "errors" {                # up to 8 numbers that each node publishes of itself
//	      http    = "/stats"           # a path of the service, whose answer is JSON
//	      pointer = "/calls/failed"    # where the number is in it (RFC 6901); default: it is all of it
//	      # prometheus = "http_errors_total{code=\"500\"}"  # instead: the sum of these series of a page of metrics
//	      # exec  = ["./kv", "errors"] # instead of http: it prints the number; addresses as for check
//	      service = "api"              # for http; default: the only service
//	      every   = "10s"              # default; of what is asked, as much is published, every 10 s at most,
//	      step    = 0.01               # as differs by more than this from what was; default 0
//	      timeout = "5s"               # default: of one question
//	    }
//	    schedule {                     # default: the defaults below
//	      strategy        = "rolling"  # default; or "at-once", "manual", "random"
//	      max_unavailable = "10%"      # or a number of nodes; default 1; not for at-once
//	      wave {                       # the canary, for rolling; default: none
//	        count = 1
//	        soak  = "10m"              # default 0s
//	      }
//	      wave {                       # more waves: until so many of a hundred nodes have gone,
//	        percent = 25               # counted from the first of the class, rounded up
//	      }
//	      wave {                       # or those that have these labels (of agent.hcl)
//	        labels = { zone = "a" }
//	      }
//	      wave {                       # or one value of a label after the other, by name,
//	        each = "zone"              # each of them a wave of its own
//	        soak = "1h"
//	      }
//	      wave {                       # the rest; may be left out
//	        percent = 100
//	      }
//	      # rate = 10                  # for random alone: each node goes by chance, so that about
//	                                   # so many go in an hour; it bounds nothing
//	      spread     = "zone"          # default: none; besides max_unavailable, of the nodes that
//	      spread_max = 1               # share a value of this label at most so many are down: default 1
//	      on_failure {
//	        max  = 1                   # default: nodes held before the rollout stops; 0: never
//	        then = "hold"              # default
//	      }
//	      # Conditions in CEL (package agent/schedule/expr), checked when the release is built.
//	      # No node goes down unless when is true; none does while hold_if is.
//	      when         = "self.facts.height >= 1200000.0"                           # default: none
//	      hold_if      = "settled.errors.p50 > 2.0 * others.errors.p50 + 0.01"      # default: none
//	      hold_timeout = "30s"         # default: how long a call may wait for its node
//	    }
//	  }
//	  agent {                          # default: none; brings a new program for the agents themselves
//	    artifact {                     # one block for each platform; where there is none the agent stays
//	      os   = "linux"
//	      arch = "amd64"
//	      path = "build/moult"         # the program, one file; it is called moult on the nodes
//	    }
//	    max_unavailable = 1            # default: on so many nodes at once, of all classes; or a share, "10%"
//	    healthy_deadline = "2m"        # default: the agent of before goes on where the new one is not well by then
//	  }
//	}
//
// A release with an agent block may have no class block; it has manifest format 10, which
// older agents refuse by that number. The program's header must be that of an executable for
// the platform; it is not run.
//
// past and future are required where from is there, and refused where it is
// not: somebody has to decide how the callers of a neighbouring version are
// answered. rules and wasm answer the calls of services that speak http; where a
// class has others beside them, those services' callers of the other version are
// refused. exec answers for any protocol. A rules file is judged before the
// release is signed, by the examples in it too, and a module by what it offers.
//
// In command and health.exec there can stand what only a node's agent knows: ${state},
// ${service.NAME}, ${service.NAME.host}, ${service.NAME.port}, ${vars.NAME} and, as an
// argument by itself, ${args}; they go into the manifest as they are (package
// placeholder). $${ is a ${ that the software sees. A transform finds its folders in
// its environment instead (MOULT_OLD, MOULT_NEW), and so does the program of an object.
//
// What the language of a later moult knows and this one does not (transforms
// of objects) is refused by name, never ignored.
//
// # Reproducible
//
// The same spec, sources and history make the same manifest, and so the same
// digest, in any folder and at any time: archive.Pack leaves times, owners and
// places out, and the cuts of chunks depend on content alone.
package build
