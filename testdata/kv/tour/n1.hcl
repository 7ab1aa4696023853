# Node n1 of the tour: three agents on one machine. The paths are from this
# file's folder.

agent {
  name       = "n1"
  class      = "kv"
  data       = "../../../build/tour/n1"
  root       = "../../../build/tour/trust/root.json"
  gossip_key = "../../../build/tour/trust/gossip.key"

  # One port for the ring, UDP and TCP, and whom to ask for the others.
  bind = "127.0.0.1:7100"
  join = ["127.0.0.1:7200", "127.0.0.1:7300"]

  # The public address, which is all that clients and peers are told; and the
  # ports on which each version that this node can answer has its own.
  service "api" {
    address  = "127.0.0.1:7110"
    versions = "7111-7119"

    # How callers reach the node, and how it reaches its peers. These work
    # everywhere and leave nothing in the kernel; "auto" takes the best that
    # works here.
    attach = "relay"
    egress = "proxy"
  }

  # For the node's software: the public addresses of the other nodes.
  env = { KV_PEERS = "127.0.0.1:7210,127.0.0.1:7310" }
}
