//go:build !linux

package socket

import "net"

func left(net.Conn) bool { return false }
