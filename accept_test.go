//go:build linux

package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// breakListener is the variable of the environment by which a test has the program's
// listener fail.
const breakListener = "CHAT_TEST_BREAK_LISTENER"

func init() {
	if os.Getenv(breakListener) != "" {
		go shutdownListener()
	}
}

// shutdownListener waits until the process has a socket that listens, and shuts it down,
// so that accept(2) fails.
func shutdownListener() {
	for {
		for fd := range 100 {
			listens, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
			if err == nil && listens == 1 {
				syscall.Shutdown(fd, syscall.SHUT_RD)
				return
			}
		}
	}
}

// If its listener fails, the program says so and exits with status 1.
func TestListenerFailsInTheProcess(t *testing.T) {
	t.Setenv(breakListener, "1")
	status, stderr := start(t, self(t), "-addr", "127.0.0.1:0").exit()
	if status != 1 || !strings.Contains(stderr, "accept tcp") {
		t.Errorf("status %d, %s", status, stderr)
	}
}
