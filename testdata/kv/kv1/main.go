package kv1

import "moult/testdata/kv/internal/node"

// Main runs kv-v1 until SIGTERM and returns its exit code. args is without the
// program's name.
//
//	kv-v1 --listen host:port --state DIR [--peers host:port,…] [--no-sync]
//
// Calls to the peers go through the HTTP proxy that HTTP_PROXY names.
func Main(args []string) int {
	return node.Program{Name: "kv-v1", Open: Open}.Main(args)
}
