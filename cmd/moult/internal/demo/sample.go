package demo

import (
	"fmt"
	"os"

	"moult/testdata/kv/kv1"
	"moult/testdata/kv/kv2"
	"moult/testdata/kv/kv3"
)

// SampleCommand makes this binary be a node of the sample system, so that the
// demo needs no Go toolchain: `moult sample-node VERSION …`. It is not shown in
// the help.
const SampleCommand = "sample-node"

// SampleNode runs the sample node if that is what args ask for.
func SampleNode(args []string) (code int, ok bool) {
	if len(args) < 3 || args[1] != SampleCommand {
		return 0, false
	}
	mains := map[string]func([]string) int{"1": kv1.Main, "2": kv2.Main, "3": kv3.Main}
	run, known := mains[args[2]]
	if !known {
		fmt.Fprintf(os.Stderr, "moult: there is no version %q of the sample system\n", args[2])
		return 2, true
	}
	return run(args[3:]), true
}
