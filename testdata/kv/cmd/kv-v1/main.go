// Command kv-v1 is version 1 of kv: see package kv1.
package main

import (
	"os"

	"moult/testdata/kv/kv1"
)

func main() { os.Exit(kv1.Main(os.Args[1:])) }
