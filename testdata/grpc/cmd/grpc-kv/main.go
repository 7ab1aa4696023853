// Command grpc-kv is a node of the gRPC sample: see package grpckv.
package main

import (
	"os"

	grpckv "moult/testdata/grpc"
)

func main() { os.Exit(grpckv.Main(os.Args[1:])) }
