// Package inbound looks at the frames that a client sends before the WebSocket library
// does, and stops what the library would read too long or in vain: a message whose
// header says that it is too long, and a flood of small fragments.
//
// It checks nothing else: whatever it passes on, the library checks as usual.
package inbound

import (
	"encoding/binary"
	"time"

	"chat/internal/cork"
	"chat/internal/protocol"
)

// maxFragments is how many fragments of messages are read from a connection in a period,
// at most. They cost about a hundredth of a processor. The longest message in fragments of
// one byte still comes within two seconds.
const maxFragments = 2000

// period is the time that maxFragments is for.
const period = 100 * time.Millisecond

// A Conn is a connection whose incoming frames are looked at. One goroutine reads from it.
type Conn struct {
	*cork.Conn

	// Limit is the length in bytes of a message, at most. It may be set between reads.
	Limit int

	err error // found in what was read, to be returned by the next Read

	// The frame that is coming.
	head    [14]byte // its header so far
	have    int      // bytes of head
	payload uint64   // bytes of its payload that have not come
	message uint64   // bytes of its message so far, this frame's included

	fragments int       // in the period since
	since     time.Time // when the period began
}

// Read reads from the connection. It returns a protocol.Disconnect in front of a header
// that must not pass.
func (c *Conn) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.Conn.Read(p)
	passed := c.inspect(p[:n])
	if c.fragments > maxFragments {
		c.pause()
	}
	if c.err != nil {
		if passed > 0 {
			return passed, nil
		}
		return 0, c.err
	}
	return n, err
}

// pause waits for the end of the period, if that is not over.
func (c *Conn) pause() {
	if rest := period - time.Since(c.since); rest > 0 {
		time.Sleep(rest)
	}
	c.fragments, c.since = 0, time.Now()
}

// inspect looks at bytes that were read and returns how many of them may pass: all, or
// those in front of a header for which it sets c.err.
func (c *Conn) inspect(p []byte) (passed int) {
	for at := 0; at < len(p); {
		if c.payload > 0 {
			skip := min(c.payload, uint64(len(p)-at))
			c.payload -= skip
			at += int(skip)
			continue
		}
		begin := at // of the header, or of what has come of it in this read
		for at < len(p) && !c.headerIsWhole() {
			c.head[c.have] = p[at]
			c.have++
			at++
		}
		if !c.headerIsWhole() {
			break
		}
		if c.err = c.header(); c.err != nil {
			return begin
		}
		c.have = 0
	}
	return len(p)
}

// headerIsWhole reports whether the header (RFC 6455, section 5.2) has come up to its
// length, which is what matters here. The mask counts as payload.
func (c *Conn) headerIsWhole() bool {
	if c.have < 2 {
		return false
	}
	switch c.head[1] & 0x7f {
	case 126:
		return c.have == 4
	case 127:
		return c.have == 10
	}
	return true
}

// header looks at a header that has come.
func (c *Conn) header() error {
	const (
		fin          = 0x80
		continuation = 0x0
		text         = 0x1
		closing      = 0x8
	)
	length := uint64(c.head[1] & 0x7f)
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(c.head[2:]))
	case 127:
		length = binary.BigEndian.Uint64(c.head[2:])
	}
	final, opcode := c.head[0]&fin != 0, c.head[0]&0x0f
	switch opcode {
	case text:
		c.message = 0
		fallthrough
	case continuation:
		if length > uint64(c.Limit) || c.message+length > uint64(c.Limit) {
			return protocol.MessageTooBig
		}
		c.message += length
		if !final || opcode == continuation {
			c.fragments++
		}
	case closing:
		if length == 1 { // half a close code (RFC 6455, section 5.5.1)
			return protocol.ProtocolError("close frame of one byte")
		}
	}
	c.payload = length
	if c.head[1]&0x80 != 0 {
		c.payload += 4 // the mask
	}
	return nil
}
