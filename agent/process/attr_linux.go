package process

import (
	"os"
	"syscall"
)

// endWithParent ties a helper to this process. It is never used for the node
// software.
func endWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

// beginIn makes a process begin in a cgroup, so that nothing that it does is
// done outside.
func beginIn(a *syscall.SysProcAttr, cgroup *os.File) error {
	a.UseCgroupFD, a.CgroupFD = true, int(cgroup.Fd())
	return nil
}
