package process

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func handleOf(pid int) (Handle, error) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil || int(info.Proc.P_pid) != pid {
		return Handle{}, fmt.Errorf("process %d: %w", pid, unix.ESRCH)
	}
	boot, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return Handle{}, fmt.Errorf("identify this start of the machine: %w", err)
	}
	begun := info.Proc.P_starttime
	return Handle{PID: pid, StartTicks: uint64(begun.Sec)*1_000_000 + uint64(begun.Usec), BootID: boot}, nil
}
