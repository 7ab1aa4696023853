// Command line-v1 is version 1 of line: see package line1.
package main

import (
	"os"

	"moult/testdata/line/line1"
)

func main() { os.Exit(line1.Main(os.Args[1:])) }
