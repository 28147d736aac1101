package socket

import (
	"net"
	"runtime"
	"testing"
	"time"
)

// pair returns both ends of a TCP connection.
func pair(t *testing.T) (here, peer net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	here, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); peer.Close() })
	return here, peer
}

// A peer that has left shows, though what it sent is not read.
func TestLeft(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the operating system is not asked here")
	}
	for how, leave := range map[string]func(*net.TCPConn){
		"close":      func(c *net.TCPConn) { c.Close() },
		"half-close": func(c *net.TCPConn) { c.CloseWrite() },
		"reset":      func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	} {
		here, peer := pair(t)
		peer.Write(make([]byte, 10_000))
		if Left(here) {
			t.Errorf("%s: left before", how)
		}
		leave(peer.(*net.TCPConn))
		for deadline := time.Now().Add(10 * time.Second); !Left(here); runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("%s: does not show", how)
			}
		}
	}
	here, _ := pair(t)
	here.Close()
	if !Left(here) {
		t.Error("a connection that is closed here has not ended")
	}
	a, _ := net.Pipe()
	if Left(a) {
		t.Error("a connection that cannot be asked has ended")
	}
}
