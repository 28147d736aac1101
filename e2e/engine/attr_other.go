//go:build !linux

package engine

import "syscall"

// Child returns no attributes: here a process outlives this one if that is killed.
func Child() *syscall.SysProcAttr { return nil }
