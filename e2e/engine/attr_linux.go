package engine

import "syscall"

// endWithParent makes the kernel kill a process when this one ends, however that ends.
func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
