package main

import "github.com/gorilla/websocket"

// writeBatches writes batches to the peer: several in one frame when several wait and fit, and
// several frames in one write when they do not. It returns nil when the hub has closed the
// queue and it is empty, or the peer would not come to the end of it in time.
func (c *Client) writeBatches() error {
	line := c.conn.NetConn().(*corkedConn)
	var next *batch // taken from the queue, but not with the one before it
	corked := 0     // frames that go out with the next
	for {
		b := next
		if b == nil {
			b = <-c.send
		}
		if b == nil || c.isSlowConsumer() {
			return nil
		}
		next = c.nextBatch()
		c.armWriteDeadline(1 + corked)
		s := b.payloads[c.protocol]
		alone := s.frame != nil && !canMerge(len(s.text), next, c.protocol)
		if alone && s.text != nil && next != nil && corked < maxCorked {
			corked++
		} else {
			corked = 0
		}
		line.cork = corked > 0
		var err error
		if alone {
			err = c.conn.WritePreparedMessage(s.frame)
		} else {
			next, err = c.writeMerged(b, next)
		}
		c.writeDeadlineTick.Store(0)
		b.markWritten()
		if err != nil {
			return err
		}
	}
}

// armWriteDeadline notes that a write begins, which has writeWait for each of so many frames.
func (c *Client) armWriteDeadline(frames int) {
	c.writeDeadlineTick.Store(c.hub.tickCount.Load() + int64(frames)*int64(writeWait/presenceInterval))
}

// isSlowConsumer reports whether the hub has dropped the client for that.
func (c *Client) isSlowConsumer() bool {
	select {
	case <-c.done:
		return c.disconnect == slowConsumer
	default:
		return false
	}
}

// batched takes a batch from the queue. It returns nil if there is none.
func (c *Client) nextBatch() *batch {
	select {
	case b := <-c.send:
		return b
	default:
		return nil
	}
}

// canMerge reports whether the next batch is lines that have room in a frame behind so many bytes.
func canMerge(size int, next *batch, w protocol) bool {
	if size == 0 || next == nil {
		return false
	}
	more := len(next.payloads[w].text)
	return more > 0 && size+1+more <= maxFrame
}

var newline = []byte{'\n'}

// writeMerged writes a batch, with what it replays, and with what waits behind it, next
// first, and fits into a frame with it. It returns the first batch that does not, or nil.
func (c *Client) writeMerged(b, next *batch) (*batch, error) {
	w, err := c.conn.NextWriter(websocket.TextMessage)
	if err != nil {
		return next, err
	}
	text := b.payloads[c.protocol].text
	w.Write(text) // an error is Close's, too
	size := len(text)
	for _, k := range b.replay {
		if size+1+len(k.payload) > maxFrame {
			if err := w.Close(); err != nil {
				return next, err
			}
			c.armWriteDeadline(1)
			if w, err = c.conn.NextWriter(websocket.TextMessage); err != nil {
				return next, err
			}
			size = 0
		}
		if size > 0 {
			w.Write(newline)
			size++
		}
		w.Write(k.payload)
		size += len(k.payload)
	}
	for canMerge(size, next, c.protocol) {
		text := next.payloads[c.protocol].text
		w.Write(newline)
		w.Write(text)
		size += 1 + len(text)
		next.markWritten()
		next = c.nextBatch()
	}
	return next, w.Close()
}
