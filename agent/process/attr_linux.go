package process

import "syscall"

// endWithParent ties a helper to this process. It is never used for the node
// software.
func endWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
