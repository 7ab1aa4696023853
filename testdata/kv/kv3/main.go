package kv3

import "moult/testdata/kv/internal/node"

// Main runs kv-v3 and returns its exit code. args is without the program's
// name.
//
//	kv-v3 --listen host:port --state DIR [--peers host:port,…] [--no-sync]
//	kv-v3 migrate
//
// The first serves until SIGTERM; its calls to the peers go through the HTTP
// proxy that HTTP_PROXY names. The second makes a state of this version in the
// folder $MOULT_NEW out of version 2's in $MOULT_OLD.
func Main(args []string) int {
	return node.Program{Name: "kv-v3", Open: Open, Migrate: Migrate}.Main(args)
}
