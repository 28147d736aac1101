package socket

import (
	"encoding/binary"
	"net"
	"syscall"
)

// The states of a TCP connection in which its peer has not shut down, as Linux numbers them
// (include/net/tcp_states.h).
const (
	tcpEstablished = 1
	tcpSynRecv     = 3
)

// left is Left for a connection of the operating system's.
func left(conn net.Conn) bool {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true // it is closed here
	}
	var info int
	if controlErr := raw.Control(func(fd uintptr) {
		// The first byte of struct tcp_info (tcp(7)) is the state; the call returns four.
		info, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
	}); controlErr != nil {
		return true
	}
	var bytes [4]byte
	binary.NativeEndian.PutUint32(bytes[:], uint32(info))
	state := bytes[0]
	return err == nil && state != tcpEstablished && state != tcpSynRecv
}
