package engine

import "syscall"

// Child returns the attributes of a process that must not outlive this one: the kernel kills
// it when this one ends, however that ends. It has a process group of its own, so an
// interrupt from the terminal (Ctrl-C) is for this process alone.
func Child() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
