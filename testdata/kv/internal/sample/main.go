// Command sample is all versions of the sample system in one binary, which is asked
// for one as moult itself is: sample-node VERSION …. Tests release it in moult's
// place, since it is a tenth of the size.
package main

import (
	"fmt"
	"os"

	"moult/testdata/kv/kv1"
	"moult/testdata/kv/kv2"
	"moult/testdata/kv/kv3"
)

func main() {
	versions := map[string]func([]string) int{"1": kv1.Main, "2": kv2.Main, "3": kv3.Main}
	if len(os.Args) < 3 || os.Args[1] != "sample-node" || versions[os.Args[2]] == nil {
		fmt.Fprintln(os.Stderr, "usage: sample sample-node VERSION ...")
		os.Exit(2)
	}
	os.Exit(versions[os.Args[2]](os.Args[3:]))
}
