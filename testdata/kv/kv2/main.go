package kv2

import (
	"context"
	"os"

	"moult/testdata/kv/internal/node"
)

// Main runs kv-v2 and returns its exit code. args is without the program's
// name.
//
//	kv-v2 --listen host:port --state DIR [--peers host:port,…] [--no-sync]
//	kv-v2 migrate
//
// The first serves until SIGTERM; its calls to the peers go through the HTTP
// proxy that HTTP_PROXY names. The second makes a state of this version in the
// folder $MOULT_NEW out of version 1's in $MOULT_OLD, and of what simulation objects
// know: $MOULT_FUTURE_STATE, $MOULT_PAST_STATE.
func Main(args []string) int {
	migrate := func(ctx context.Context, from, to string) (int, error) {
		return MigrateWith(ctx, from, to, os.Getenv("MOULT_FUTURE_STATE"), os.Getenv("MOULT_PAST_STATE"))
	}
	return node.Program{Name: "kv-v2", Open: Open, Migrate: migrate}.Main(args)
}
