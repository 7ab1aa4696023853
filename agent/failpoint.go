package agent

import (
	"fmt"
	"os"
	"strings"

	"moult/agent/upgrade"
)

// failpointVar names the environment variable that makes the agent kill
// itself, as a crash would, when it reaches a point of the upgrade:
// "PHASE.saved" (the phase is durable, its action has not begun) or
// "PHASE.done" (the action is done, nothing about it is durable). Spaces in a
// phase's name are written as dashes. It is for tests of recovery.
const failpointVar = "MOULT_FAILPOINT"

type failpoints string

// reach kills this process if the environment asks for it here.
func (f failpoints) reach(phase upgrade.Phase, place string) {
	if string(f) != strings.ReplaceAll(string(phase), " ", "-")+"."+place {
		return
	}
	fmt.Fprintf(os.Stderr, "moult: failpoint %s\n", f)
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		panic(err)
	}
	select {} // the signal ends the process at any moment
}
