package main

import (
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// dial returns a connection that does not block from now on. The caller closes it, also
// after an error, unless it is -1.
func dial(addr netip.AddrPort) (fd int, err error) {
	fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err == nil {
		err = syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()})
	}
	if err == nil {
		err = syscall.SetNonblock(fd, true)
	}
	if err == nil {
		err = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	}
	return fd, os.NewSyscallError("connect", err)
}

// timerEvent is the index by which epoll names the timer. Others name clients.
const timerEvent = -1

// watch makes epoll report, by an index, whenever something new can be read from fd.
func (g *generator) watch(fd, index int) error {
	const edgeTriggered = 1 << 31 // syscall.EPOLLET is negative
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | edgeTriggered, Fd: int32(index)}
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(g.epoll, syscall.EPOLL_CTL_ADD, fd, &event))
}

// newTimer returns a descriptor that can be read once in an interval, from its first end
// on. The caller closes it.
func newTimer(interval time.Duration) (fd int, err error) {
	const clockMonotonic = 1
	r, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, clockMonotonic, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno == 0 {
		t := syscall.NsecToTimespec(interval.Nanoseconds())
		spec := struct{ interval, first syscall.Timespec }{t, t}
		_, _, errno = syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, r, 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
	}
	if errno != 0 {
		return -1, os.NewSyscallError("timerfd", errno)
	}
	return int(r), nil
}

// The system calls of the loop bypass Go's scheduler: to tell it of each costs a fifth of
// the generator's time, and nothing else waits to be scheduled.

// epollWait waits for events, at most for so long. It returns how many there are.
func epollWait(epoll int, events []syscall.EpollEvent, wait time.Duration) (int, error) {
	milliseconds := max(0, wait.Milliseconds()+1)
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(milliseconds), 0, 0)
	if errno == 0 || errno == syscall.EINTR {
		return max(0, int(n)), nil
	}
	return 0, os.NewSyscallError("epoll_pwait", errno)
}

// transfer reads or writes buf, which is not empty.
func transfer(trap uintptr, fd int, buf []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
	return int(n), errno
}

// cpuTime returns the CPU time that all threads of a process have used, by its CPU clock
// (see clock_getcpuclockid(3)), which is more precise than /proc. It returns a fault if
// there is no such process.
func cpuTime(pid int) (time.Duration, error) {
	var used syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, uintptr(^pid<<3|2), uintptr(unsafe.Pointer(&used)), 0)
	if errno != 0 {
		return 0, fault("has exited")
	}
	return time.Duration(used.Nano()), nil
}

// residentMemory returns the resident memory of a process in bytes.
func residentMemory(pid int) (int, error) {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	var size, pages int
	_, err = fmt.Sscan(string(statm), &size, &pages)
	return pages * os.Getpagesize(), err
}
