// Package cork makes connections that two parties write WebSocket frames to: a goroutine of
// ours, frames that it has ready, and a WebSocket library, pongs and close frames of its own.
// Frames go out whole, nothing follows a close frame, and several frames can share one
// write(2), as with TCP_CORK.
//
// It relies on how github.com/gorilla/websocket 1.5.3 writes: the answer to the handshake is
// one Write, and so is each control frame. A test holds the library to that.
package cork

import (
	"errors"
	"net"
	"os"
	"time"
)

// ErrCloseSent is what writing fails with after a close frame.
var ErrCloseSent = errors.New("a close frame was sent")

// A Conn is a net.Conn to which frames are written.
//
// Example: WriteFrame(A, true) and WriteFrame(B, true) hold the frames A and B back;
// WriteFrame(C, false) sends A, B and C in one write(2). A pong that the library writes after
// B takes A and B along.
type Conn struct {
	net.Conn

	deadline time.Time // for what the library writes; it sets and uses it under its own lock

	// lock is full while a goroutine uses what follows. (In a bubble of testing/synctest, time
	// passes while goroutines wait for a channel, and not while they wait for a sync.Mutex.)
	lock        chan struct{}
	held        net.Buffers // frames that go out with the next
	hasDeadline bool        // the connection has a write deadline
	err         error       // why nothing more can be written
}

// New returns a connection that writes to conn.
func New(conn net.Conn) *Conn { return &Conn{Conn: conn, lock: make(chan struct{}, 1)} }

// WriteFrame writes a frame, after those that are held back; or it holds the frame back, too,
// by reference: then nobody may change it before it is sent. There is no deadline. After an
// error, which may have cut a frame, and after a close frame, nothing more is written.
func (c *Conn) WriteFrame(frame []byte, hold bool) error {
	c.lock <- struct{}{}
	defer func() { <-c.lock }()
	if hold {
		c.held = append(c.held, frame)
		return c.err
	}
	return c.write(frame, time.Time{})
}

// Write writes what the library has to write, after the frames that are held back. If the
// deadline passes while another frame is being written, it writes nothing.
func (c *Conn) Write(p []byte) (int, error) {
	if !c.lockBefore(c.deadline) {
		return 0, os.ErrDeadlineExceeded
	}
	defer func() { <-c.lock }()
	if err := c.write(p, c.deadline); err != nil {
		return 0, err
	}
	return len(p), nil
}

// lockBefore takes the lock. It reports false if a deadline, unless that is zero, passes.
func (c *Conn) lockBefore(deadline time.Time) bool {
	if deadline.IsZero() {
		c.lock <- struct{}{}
		return true
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case c.lock <- struct{}{}:
		return true
	case <-timer.C:
		return false
	}
}

// write writes a frame after those that are held back. The lock must be held.
func (c *Conn) write(frame []byte, deadline time.Time) error {
	const closeFrame = 0x88 // its first byte (RFC 6455, section 5.2)
	if c.err != nil {
		return c.err
	}
	if c.hasDeadline || !deadline.IsZero() { // to set one costs much; nearly never is there any
		c.hasDeadline = !deadline.IsZero()
		c.Conn.SetWriteDeadline(deadline) // if it fails, so does what follows
	}
	var err error
	if len(c.held) == 0 {
		_, err = c.Conn.Write(frame)
	} else {
		all := append(c.held, frame)
		c.held = all[:0]
		_, err = all.WriteTo(c.Conn)
	}
	if c.err = err; err == nil && frame[0] == closeFrame {
		c.err = ErrCloseSent
	}
	return err
}

// SetWriteDeadline sets the deadline of what the library writes from now on. It does not
// change that of a frame which is being written.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.deadline = t
	return nil
}

// CloseWrite tells the peer that nothing more will come, where the connection can. An
// error says that there is nobody to tell.
func (c *Conn) CloseWrite() error {
	if conn, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return nil
}
