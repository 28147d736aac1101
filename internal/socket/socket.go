// Package socket asks the operating system what the standard library does not tell of a
// connection.
package socket

import "net"

// Left reports whether the peer of a connection has shut down its side or is gone, even
// while there is still something to read. Where the operating system cannot be asked, it
// reports false.
func Left(conn net.Conn) bool {
	if conn, ok := conn.(interface{ PeerLeft() bool }); ok { // a connection of tests
		return conn.PeerLeft()
	}
	return left(conn)
}
