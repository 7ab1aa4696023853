package main

import (
	"os"

	"moult/simlayer/host"
)

// objectHost makes this binary be the object host, or become an exec object, if
// that is what args ask for: agents start it so. It is not shown in the help.
func objectHost(args []string) (code int, ok bool) {
	if len(args) < 2 || args[1] != host.CommandName {
		return 0, false
	}
	return host.Main(args[2:], os.Stderr), true
}
