package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// Socket is a listening socket that the software inherits. Several may have one
// name.
type Socket struct {
	Name string // without colons and control characters
	File *os.File
}

// shell sets LISTEN_PID, which only the process itself knows in time, and then
// becomes the program.
const shell = "/bin/sh"

// pass makes cmd inherit sockets, and behind them files that it is not told of. It
// is called once its environment is whole.
func pass(cmd *exec.Cmd, sockets []Socket, held []*os.File) error {
	if n := max(len(sockets), len(held)); n > maxSockets {
		return fmt.Errorf("pass %d sockets to the software: at most %d", n, maxSockets)
	}
	if len(sockets) == 0 {
		cmd.ExtraFiles = append(cmd.ExtraFiles, held...)
		return nil
	}
	if _, err := os.Stat(shell); err != nil {
		return fmt.Errorf("pass sockets to the software: %w; install a shell, or use another kind of attach", err)
	}
	names := make([]string, len(sockets))
	for i, s := range sockets {
		if s.File == nil || s.Name == "" || strings.ContainsFunc(s.Name, func(r rune) bool { return r == ':' || r < ' ' || r > '~' }) {
			return errors.New("pass a socket to the software: it has no file, or a name that LISTEN_FDNAMES cannot have")
		}
		names[i] = s.Name
		cmd.ExtraFiles = append(cmd.ExtraFiles, s.File)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, held...)
	cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(sockets)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	cmd.Path = shell
	cmd.Args = append([]string{shell, "-c", `LISTEN_PID=$$ exec "$0" "$@"`}, cmd.Args...)
	// A program of PATH that was not found is the shell's to report.
	cmd.Err = nil
	return nil
}
