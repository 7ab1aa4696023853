package kit

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
)

// Child is this test's own program once more, with env added to its environment,
// by which its TestMain knows that it is to be something else.
func Child(env ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(fmt.Sprintf("find this program's file: %v", err)) // there is no test without it
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// Begin starts a child and returns the first line that it writes, without its end,
// and the rest of what it writes; the line is empty where it ended without one.
func Begin(cmd *exec.Cmd) (line string, out *bufio.Scanner, err error) {
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	out = bufio.NewScanner(pipe)
	out.Scan()
	return out.Text(), out, nil
}
