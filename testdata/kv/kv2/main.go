package kv2

import "moult/testdata/kv/internal/node"

// Main runs kv-v2 and returns its exit code. args is without the program's
// name.
//
//	kv-v2 --listen host:port --state DIR [--peers host:port,…] [--no-sync]
//	kv-v2 migrate
//
// The first serves until SIGTERM; its calls to the peers go through the HTTP
// proxy that HTTP_PROXY names. The second makes a state of this version in the
// folder $MOULT_NEW out of version 1's in $MOULT_OLD.
func Main(args []string) int {
	return node.Program{Name: "kv-v2", Open: Open, Migrate: Migrate}.Main(args)
}
