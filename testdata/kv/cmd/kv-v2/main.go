// Command kv-v2 is version 2 of kv: see package kv2.
package main

import (
	"os"

	"moult/testdata/kv/kv2"
)

func main() { os.Exit(kv2.Main(os.Args[1:])) }
