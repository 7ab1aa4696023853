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

	"moult/simlayer/host/child"
	"moult/simlayer/host/control"
	"moult/simlayer/host/guests"
)

// CommandName is the hidden command of moult that is the object host, and that
// becomes exec objects: `moult object-host serve|exec|compile …`.
const CommandName = "object-host"

const (
	serveName  = "serve"
	becomeName = "exec"
	// compileName is followed by a memory limit, the cache's folder and a file.
	compileName = "compile"
	// controlFD is where the object host finds its control socket.
	controlFD = 3
)

// Main is the hidden command: args are those after CommandName. It returns the
// exit code.
func Main(args []string, stderr io.Writer) int {
	return mainWith(args, stderr, map[string]guests.Opener{KindWasm: guests.OpenWasm})
}

func mainWith(args []string, stderr io.Writer, openers map[string]guests.Opener) int {
	if err := run(args, stderr, openers); err != nil {
		fmt.Fprintf(stderr, "moult: %s: %v\n", CommandName, err)
		return 1
	}
	return 0
}

func run(args []string, stderr io.Writer, openers map[string]guests.Opener) error {
	switch {
	case len(args) > 0 && args[0] == becomeName:
		return become(args[1:])
	case len(args) == 2 && args[0] == serveName:
	case len(args) == 4 && args[0] == compileName:
	default:
		return fmt.Errorf("the agent starts this command; it is of no use by itself")
	}
	memory, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil || memory < 1 {
		return fmt.Errorf("memory limit %q: want a number of bytes", args[1])
	}
	if err := child.LimitMemory(memory); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	if args[0] == compileName {
		return guests.Compile(ctx, args[2], args[3], log)
	}
	closeOnExec(controlFD)
	conn, err := control.NewConn(os.NewFile(controlFD, "control"))
	if err != nil {
		return err
	}
	defer conn.Close()
	return guests.Serve(ctx, conn, openers, log)
}
