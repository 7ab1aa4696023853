package kv2

import (
	"context"
	"errors"
	"os"

	"moult/testdata/kv/internal/node"
)

// Main runs kv-v2 and returns its exit code. args is without the program's
// name.
//
//	kv-v2 --listen host:port --state DIR [--peers host:port,…] [--no-sync]
//	kv-v2 migrate
//	kv-v2 back
//
// The first serves until SIGTERM; its calls to the peers go through the HTTP
// proxy that HTTP_PROXY names. The second makes a state of this version in the
// folder $MOULT_NEW out of version 1's in $MOULT_OLD, and of what simulation objects
// know: $MOULT_FUTURE_STATE, $MOULT_PAST_STATE. The third makes one of version 1 in
// $MOULT_NEW out of this one's in $MOULT_OLD, and puts what that cannot hold into
// $MOULT_COMPLEMENT, where the second finds it.
func Main(args []string) int {
	migrate := func(ctx context.Context, from, to string) (int, error) {
		return MigrateWith(ctx, from, to, os.Getenv("MOULT_FUTURE_STATE"), os.Getenv("MOULT_PAST_STATE"), os.Getenv("MOULT_COMPLEMENT"))
	}
	back := func(ctx context.Context, from, to string) (int, error) {
		rest := os.Getenv("MOULT_COMPLEMENT")
		if rest == "" {
			return 0, errors.New("set $MOULT_COMPLEMENT to a folder for what version 1 cannot hold")
		}
		return Back(ctx, from, to, rest)
	}
	return node.Program{Name: "kv-v2", Open: Open, Migrate: migrate, Back: back}.Main(args)
}
