package host

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"moult/simlayer/so"
)

// CommandName is the hidden command of moult that is the object host, and that
// becomes exec objects: `moult object-host serve|exec …`.
const CommandName = "object-host"

const (
	serveName  = "serve"
	becomeName = "exec"
	// controlFD is where the object host finds its control socket.
	controlFD = 3
)

// Opener makes an object out of the file of its release. What it returns may
// implement io.Closer.
type Opener func(context.Context, Opening) (so.Object, error)

// Opening is what an Opener gets.
type Opening struct {
	Object
	Data  []byte // of Path
	Cache string // folder for what was compiled; "" is none
}

// Openers has what opens each kind beyond those that this package knows itself.
type Openers map[string]Opener

// Main is the hidden command: args are those after CommandName. It returns the
// exit code.
func Main(args []string, stderr io.Writer, openers Openers) int {
	if err := run(args, stderr, openers); err != nil {
		fmt.Fprintf(stderr, "moult: %s: %v\n", CommandName, err)
		return 1
	}
	return 0
}

func run(args []string, stderr io.Writer, openers Openers) error {
	switch {
	case len(args) > 0 && args[0] == becomeName:
		return become(args[1:])
	case len(args) == 2 && args[0] == serveName:
	default:
		return fmt.Errorf("the agent starts this command; it is of no use by itself")
	}
	memory, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil || memory < 1 {
		return fmt.Errorf("memory limit %q: want a number of bytes", args[1])
	}
	if err := limitMemory(memory); err != nil {
		return err
	}
	syscall.CloseOnExec(controlFD)
	control, err := newFramer(os.NewFile(controlFD, "control"))
	if err != nil {
		return err
	}
	defer control.conn.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return serve(ctx, control, openers, log)
}
