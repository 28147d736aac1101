//go:build !linux

package engine

import "syscall"

// endWithParent does nothing: a process outlives this one if that is killed.
func endWithParent() *syscall.SysProcAttr { return nil }
