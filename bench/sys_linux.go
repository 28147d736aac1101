package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// The loop's own system calls go past Go's scheduler, for which there is nothing to
// schedule here: telling it of each costs a fifth of the generator's time.

// transfer reads or writes buf, which is not empty.
func transfer(trap uintptr, fd int, buf []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
	return int(n), errno
}

// epollWait waits for events, at most for so many milliseconds.
func epollWait(epoll int, events []syscall.EpollEvent, wait int64) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(wait), 0, 0)
	return int(n), errno
}

// cpuTime is the processor time that all threads of a process have used together, from
// its CPU clock: see clock_getcpuclockid(3). /proc tells the same in steps of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	var used syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, uintptr(^pid<<3|2), uintptr(unsafe.Pointer(&used)), 0)
	if errno != 0 {
		return 0, os.NewSyscallError("clock_gettime", errno)
	}
	return time.Duration(used.Nano()), nil
}

// residentMemory is what a process has in memory, in bytes.
func residentMemory(pid int) (int, error) {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(statm))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/statm: %q", pid, statm)
	}
	pages, err := strconv.Atoi(fields[1])
	return pages * os.Getpagesize(), err
}
