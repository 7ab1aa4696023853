// Command udp-kv is the node software, and the simulation objects, of the sample in
// package udpkv.
package main

import (
	"os"

	udpkv "moult/testdata/udp"
)

func main() { os.Exit(udpkv.Main(os.Args[1:])) }
