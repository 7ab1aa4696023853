package main

import (
	"fmt"
	"os"

	"moult/simlayer/host"
)

// objectHost makes this binary be the object host, or become an exec object, if
// that is what args ask for: agents start it so. It is not shown in the help.
func objectHost(args []string) (code int, ok bool) {
	if len(args) < 2 || args[1] != host.CommandName {
		return 0, false
	}
	if len(args) < 4 {
		fmt.Fprintf(os.Stderr, "moult: %s: agents start this command, to run simulation objects; it is of no use by itself\nhint: `moult rules test FILE` tries a rules file\n", host.CommandName)
		return exitMisuse, true
	}
	return host.Main(args[2:], os.Stderr), true
}
