# /etc/moult/agent.hcl: see "The agent's configuration" in docs/operations.md. root.json and
# gossip.key come from the folder that `moult trust init` has made.
agent {
  class      = "kv"
  data       = "/var/lib/moult"
  root       = "root.json"
  gossip_key = "gossip.key"
  bind       = "192.0.2.5:7946"
  join       = ["192.0.2.4:7946"]

  service "api" {
    address  = "192.0.2.5:7000"
    versions = "7001-7009"
  }
}
