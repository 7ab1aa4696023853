package process

import "fmt"

// Handle names one process for as long as the machine runs, and none
// afterwards. It is meant to be kept as JSON.
type Handle struct {
	PID int `json:"pid"`
	// StartTicks is when the process began, in the kernel's own unit.
	StartTicks uint64 `json:"start_ticks"`
	// BootID is another after each start of the machine.
	BootID string `json:"boot_id"`
}

func (h Handle) String() string { return fmt.Sprintf("process %d", h.PID) }

// markerEntry is what FindOrphans looks for in an environment.
func markerEntry(marker string) string { return "MOULT_NODE=" + marker }
