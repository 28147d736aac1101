// Package cork makes connections that can hold back what is written to them, so that
// several WebSocket frames go out in one write(2), as TCP_CORK does for sockets.
//
// It relies on how github.com/gorilla/websocket 1.5.3 writes: each Write begins a
// frame, and a frame whose payload fits the write buffer, or that was prepared, is one
// Write. A test holds the library to that.
package cork

import (
	"net"
	"time"
)

// A Conn is a net.Conn whose writes can be held back. The bytes of a held write are
// kept by reference: only what nobody changes before it is sent may be held, such as a
// prepared frame.
//
// Example: with Hold(true), writes of the frames A and B reach nobody; after
// Hold(false), the write of C sends A, B and C together. A control frame, a pong say,
// that another goroutine writes after B sends A, B and itself at once.
type Conn struct {
	net.Conn

	hold bool // set by the one goroutine that writes data frames

	// Used by Write and SetWriteDeadline, which the library calls under its own lock.
	held        net.Buffers // written, not sent
	hasDeadline bool        // the connection has a write deadline
}

// Hold says whether the data frames written from now on are held back until a frame is
// written that is not. Only the goroutine that writes data frames may call it.
func (c *Conn) Hold(hold bool) { c.hold = hold }

// Write sends p after what is held, or holds it, too. A control frame (opcode 8 or more,
// RFC 6455, section 5.2) is never held: it may be the last.
func (c *Conn) Write(p []byte) (int, error) {
	// Other goroutines write control frames only, and so never look at hold.
	isControl := len(p) > 0 && p[0]&8 != 0
	if !isControl && c.hold {
		c.held = append(c.held, p)
		return len(p), nil
	}
	if len(c.held) == 0 {
		return c.Conn.Write(p)
	}
	all := append(c.held, p)
	c.held = all[:0]
	if _, err := all.WriteTo(c.Conn); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetWriteDeadline sets the deadline unless there is none and none is asked for: the
// library asks so with each frame, and that costs as much as setting one.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if t.IsZero() && !c.hasDeadline {
		return nil
	}
	c.hasDeadline = !t.IsZero()
	return c.Conn.SetWriteDeadline(t)
}

// CloseWrite tells the peer that nothing more will come, where the connection can. An
// error says that there is nobody to tell.
func (c *Conn) CloseWrite() error {
	if conn, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return nil
}
