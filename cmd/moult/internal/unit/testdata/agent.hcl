# Made by `moult adopt` of kv.service:
#   testdata/kv.service
#   testdata/kv.service.d/10-all.conf
#   testdata/kv.service.d/20-more.conf
#
# What it has not, of these:
# - testdata/kv.service:22: StateDirectory=kv kv-old: a node has one state, /var/lib/kv: what is in /var/lib/kv-old is not upgraded with it, and stays where it is
# - testdata/kv.service:24: LimitNOFILE=1024:4096: a limit is hard and soft at once: 4096 is taken
# - testdata/kv.service:26: LimitNICE=5: agent.hcl has no such limit
# - testdata/kv.service:18: ExecStart=/usr/bin/kv serve --state /var/lib/kv --listen 10.0.0.5:7000 --admin=:7000 $OPTS --dollar $$x --text ${NOTE} "quoted \"word\"" --none $UNSET: the variable UNSET is not set in the unit: nothing stands for it
# - testdata/kv.service:5: After=network.target: say it in the agent's unit, which systemd starts
# - testdata/kv.service:6: ConditionPathExists=!/etc/kv/off: say it in the agent's unit, which systemd starts
# - testdata/kv.service:17: ExecStartPre=/usr/bin/kv check: run it in the program's start, or once by hand
# - testdata/kv.service:21: ExecReload=/bin/kill -HUP $MAINPID: nothing is reloaded: a release is how software is changed
# - testdata/kv.service:31: KillSignal=SIGINT: software is ended by SIGTERM, and by SIGKILL after drain_timeout
# - testdata/kv.service:32: Restart=on-failure: software that ends is started again in any case
# - testdata/kv.service:33: ProtectSystem=strict: it holds nothing of moult's, unless the agent's own unit says it; user is what else holds the software
agent {
  class                = "kv"
  root                 = "root.json"
  gossip_key           = "gossip.key"
  user                 = "kv"
  group                = "kv"
  supplementary_groups = ["tls", "ssl-cert"]
  working_dir          = "/"
  umask                = "0027"
  oom_score            = 100
  memory_max           = 1073741824
  cpu_weight           = 50
  env = {
    GOGC = "70"
    NOTE = "two words"
    OPTS = "--log debug"
  }
  rlimits {
    nofile = 4096
    core   = "unlimited"
  }
  service "api" {
    address  = "10.0.0.5:7000"
    versions = "7001-7009"
    protocol = "tcp"
  }
  adopt {
    version = 3
    command = ["/usr/bin/kv", "serve", "--state", "${state}", "--listen", "${service.api}", "--admin=:${service.api.port}", "--log", "debug", "--dollar", "$x", "--text", "two words", "quoted \"word\"", "--none"]
    state   = "/var/lib/kv"
    health {
      tcp              = true
      service          = "api"
      drain_timeout    = "1m20s"
      healthy_deadline = "1m30s"
    }
  }
}
