// Command line-v2 is version 2 of line: see package line2.
package main

import (
	"os"

	"moult/testdata/line/line2"
)

func main() { os.Exit(line2.Main(os.Args[1:])) }
