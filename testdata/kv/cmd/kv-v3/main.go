// Command kv-v3 is version 3 of kv: see package kv3.
package main

import (
	"os"

	"moult/testdata/kv/kv3"
)

func main() { os.Exit(kv3.Main(os.Args[1:])) }
