package main

import (
	"sync"
	"time"

	"chat/internal/protocol"
	"chat/internal/queue"
)

// How messages get into the log and from it into batches, batches into queues, and from there
// into frames and writes. The invariants:
//
//   - The hub alone puts batches into queues, and never waits for a client to take one.
//   - writePump alone writes data frames and pings, and alone holds frames back. At any time
//     readPump may write a pong, and the library a close frame: the corked connection keeps
//     frames whole, and lets nothing follow a close frame.
//   - A client receives the text of every batch in its queue, in order, each line once;
//     it may be in a frame with others, never cut.
//   - A frame that all clients share is written as it is, and only such a frame is held
//     back: a merged one is built in a buffer that is used again.
//   - A held frame is always followed by a write that sends it: frames are held only
//     while another batch has been taken from the queue.
//   - Whenever a write is under way, writeDeadlineTick is set, so that the hub finds one
//     that does not end.
//
// An example: in the queue of a client on ChatV1 are batches A of 12 KiB, B of 9 KiB, C
// of 3 KiB and D of 2 KiB. A and B do not fit into one frame: the shared frame of A is
// held back. B, C and D fit: they are merged into one frame of 14 KiB. Its write takes A
// along: two frames, one write(2).

// maxCorked is how many frames are held back, at most, to go out with the next in one write.
// Each adds writeWait to the time that this write may take.
const maxCorked = 2

// shedLength is how many batches are in the queue of a client that the hub disconnects to
// make room in a full backlog. The queue of a client that reads has fewer.
const shedLength = 8

// commitWait is how long a stop, or a client that leaves, waits at most until its messages are
// in the log and delivered. A stop has the rest of its five seconds for close handshakes.
const commitWait = 2 * time.Second

// say hands a message to the log, unless its sender was disconnected as a slow consumer since
// it sent it.
func (h *Hub) say(m message) {
	h.received++
	if !m.sender.isSlowConsumer() {
		h.log.say(m)
	}
}

// drainBroadcast hands up to n messages from the channel to the log, and returns how many. It
// stops when the log is full.
func (h *Hub) drainBroadcast(n int) (drained int) {
	for ; drained < n && !h.log.isFull(); drained++ {
		h.say(<-h.broadcast)
	}
	return drained
}

// deliver sends what the log hands back, in as few batches as it fits into. A repeat, which
// its sender sent again because it did not know whether the first arrived, is answered to its
// sender alone.
func (h *Hub) deliver() {
	now := time.Now()
	taken, lost := h.log.take()
	if lost != nil {
		h.dropAll(*lost)
	}
	for _, m := range taken {
		if m.isRepeat {
			h.flush() // first what was said before
			if h.clients[m.repeatTo] {
				h.enqueue(m.repeatTo, newRepeat(m.entry))
			}
			continue
		}
		said := protocol.Message{Name: m.name, Text: m.text}
		h.scratch = said.AppendClassic(h.scratch[:0])
		encoded := [protocol.NumProtocols][]byte{protocol.Classic: h.scratch, protocol.ChatV1: m.entry.Payload}
		if !h.builder.fits(encoded) {
			h.flush()
		}
		h.builder.add(encoded, h.clientsByProtocol, now)
	}
	h.flush()
	h.noteLast()
	h.completeLeaves()
	h.admitWaiting()
}

// flush queues the batch that was built, if there is one, for every client.
func (h *Hub) flush() {
	messages, firstAt := h.builder.messages, h.builder.firstAt
	if messages == 0 {
		return
	}
	b := h.builder.build()
	b.expect(len(h.clients), h.ticks.Load(), h.backlog)
	h.coalescer.begin(b, messages, len(h.clients))
	queued := 0
	for c := range h.clients {
		if h.enqueue(c, b) {
			queued++
		}
	}
	h.coalescer.queued()
	h.counters.Fanout.Add(time.Since(firstAt))
	h.counters.Batches.Add(1)
	h.counters.Messages.Add(int64(messages))
	h.counters.Deliveries.Add(int64(messages * queued))
	if h.backlog.IsFull() {
		h.shed()
	}
}

// noteLast sets the atomic fields that show what was said.
func (h *Hub) noteLast() {
	id, severalSpoke := h.log.last()
	if h.log.pending() > 0 {
		id = max(id, 1) // something was said, though it has no id yet
	}
	if last := h.lastID.Load(); id > last || last == 1 { // 1 is no message's id
		h.lastID.Store(id)
		h.severalSpoke.Store(severalSpoke)
	}
}

// A pendingLeave is a leave that waits until the client's messages are delivered.
type pendingLeave struct {
	leave
	after int64 // how many messages the hub must have received, and delivered
	since int64 // tick
}

// completeLeaves drops the clients whose messages were delivered, and those that have waited
// for commitWait.
func (h *Hub) completeLeaves() {
	delivered := h.received - int64(h.log.pending())
	for len(h.leaving) > 0 {
		l := h.leaving[0]
		if l.after > delivered && time.Duration(h.ticks.Load()-l.since)*tickPeriod <= commitWait {
			return
		}
		h.leaving = h.leaving[1:]
		h.drop(l.client, l.reason)
	}
}

// awaitCommit hands the messages in the channel to the log, and delivers them when they are in
// it. It gives up after commitWait.
func (h *Hub) awaitCommit() {
	timeout := time.NewTimer(commitWait)
	defer timeout.Stop()
	for left := len(h.broadcast); ; {
		left -= h.drainBroadcast(left)
		h.deliver()
		if left == 0 && h.log.pending() == 0 {
			return
		}
		select {
		case <-h.log.ready():
		case <-timeout.C:
			return
		}
	}
}

// shed disconnects the clients that are far behind.
func (h *Hub) shed() {
	for c := range h.clients {
		if c.send.Len() >= shedLength {
			h.drop(c, slowConsumer)
		}
	}
}

// enqueue queues a batch for a client. If the queue is full, it drops the client as a slow
// consumer and reports false: to wait for it would be to let it set everyone's pace.
func (h *Hub) enqueue(c *Client, b *batch) bool {
	if c.send.Put(b) {
		return true
	}
	b.markWritten() // it never will be
	h.drop(c, slowConsumer)
	return false
}

// offerNotice queues a batch for the clients that speak p, except those whose queue is
// full: such a client is not idle, and the next notice replaces this one.
func (h *Hub) offerNotice(p protocol.Protocol, b *batch) {
	if b != ping {
		b.expect(h.clientsByProtocol[p], h.ticks.Load(), h.backlog)
	}
	for c := range h.clients {
		if c.protocol != p {
			continue
		}
		if !c.send.Put(b) {
			b.markWritten() // it never will be
		}
	}
}

// writeBatches writes what the hub queues for the client. It returns nil when the hub has
// closed the queue and everything in it is written, or the client is a slow consumer,
// which would not come to the end of it in time; else the error of a write.
func (c *Client) writeBatches() error {
	out := pieceReader{queue: c.send, protocol: c.protocol}
	defer out.abandon()
	held := 0 // frames that go out with the next
	for out.waitNext() && !c.isSlowConsumer() {
		first := out.take()
		c.queuedTick.Store(first.tick)
		c.armWriteDeadline(1 + held)
		var err error
		if first.frame != nil && !out.canMerge(len(first.text)) {
			hold := first.text != nil && held < maxCorked && out.tryNext() // a ping is not held
			err = c.corked.WriteFrame(first.frame, hold)
			if hold {
				held++
			} else {
				held = 0
			}
		} else {
			err = c.writeMerged(first, &out)
			held = 0
		}
		c.writeDeadlineTick.Store(0)
		first.markWritten()
		if err != nil {
			return err
		}
	}
	return nil
}

// newline separates lines in a frame.
var newline = []byte{'\n'}

// mergedFrames holds *protocol.TextFrame, for writeMerged.
var mergedFrames = sync.Pool{New: func() any { return new(protocol.TextFrame) }}

// writeMerged writes one frame: the first piece, and those of the reader that fit.
func (c *Client) writeMerged(first piece, out *pieceReader) error {
	frame := mergedFrames.Get().(*protocol.TextFrame)
	defer mergedFrames.Put(frame)
	frame.Reset()
	frame.Add(first.text)
	for out.canMerge(len(frame.Text())) {
		next := out.take()
		frame.Add(newline)
		frame.Add(next.text)
		next.markWritten()
	}
	return c.corked.WriteFrame(frame.Bytes(), false)
}

// armWriteDeadline notes that a write of so many frames begins, which the hub ends if it
// takes longer than writeWait for each of them.
func (c *Client) armWriteDeadline(frames int) {
	c.writeDeadlineTick.Store(c.hub.ticks.Load() + int64(frames)*int64(writeWait/tickPeriod))
}

// isOverdue reports whether the write under way takes too long, or writes a batch that was
// queued more than maxAge ticks ago, and the reason to disconnect the client then.
func (c *Client) isOverdue(ticks, maxAge int64) (reason protocol.Disconnect, overdue bool) {
	deadline, queued := c.writeDeadlineTick.Load(), c.queuedTick.Load()
	switch {
	case deadline == 0: // nothing is being written
		return reason, false
	case ticks > deadline:
		return writeTimeout, true
	}
	return slowConsumer, queued > 0 && ticks-queued > maxAge
}

// isSlowConsumer reports whether the hub has disconnected the client as one.
func (c *Client) isSlowConsumer() bool {
	select {
	case <-c.done:
		return c.reason == slowConsumer
	default:
		return false
	}
}

// A piece is what is not split between frames: a batch's payload, or a message of its
// replay. Text may share a frame with other text; a ping, which has none, may not.
type piece struct {
	text  []byte // nil for a ping
	frame []byte // the piece as a frame that all clients share, or nil
	tick  int64  // the hub's, when the batch was queued; 0 if that does not matter
	ends  *batch // the batch that it is the last piece of, or nil
}

// markWritten notes that the piece is written, or about to be.
func (p piece) markWritten() {
	if p.ends != nil {
		p.ends.markWritten()
	}
}

// A pieceReader takes a client's queue apart into pieces.
type pieceReader struct {
	queue    *queue.Queue[*batch]
	protocol protocol.Protocol
	batch    *batch // taken from the queue; nil when its last piece is taken
	next     int    // piece of the batch: 0 is the payload, i the message i-1 of the replay
}

// waitNext takes the next batch from the queue, unless pieces of the last one are left. It waits
// for one, and reports false when the queue is closed and empty.
func (o *pieceReader) waitNext() bool {
	if o.batch != nil {
		return true
	}
	b, _ := o.queue.Take()
	return o.open(b)
}

// tryNext is waitNext without waiting: it also reports false if the queue is empty.
func (o *pieceReader) tryNext() bool {
	if o.batch != nil {
		return true
	}
	b, _ := o.queue.TryTake()
	return o.open(b)
}

// open begins with the pieces of a batch. It reports false for nil, which an empty queue
// delivers.
func (o *pieceReader) open(b *batch) bool {
	o.batch, o.next = b, 0
	if b == nil {
		return false
	}
	if p := b.payloads[o.protocol]; p.text == nil && p.frame == nil {
		o.next = 1
	}
	return true
}

// peek returns the next piece, which must be there.
func (o *pieceReader) peek() piece {
	p := piece{tick: o.batch.tick}
	if o.next == 0 {
		payload := o.batch.payloads[o.protocol]
		p.text, p.frame = payload.text, payload.frame
	} else {
		p.text = o.batch.replay[o.next-1].Payload
	}
	if o.next == len(o.batch.replay) {
		p.ends = o.batch
	}
	return p
}

// take returns the next piece, which must be there, and goes on to the one after it.
func (o *pieceReader) take() piece {
	p := o.peek()
	o.next++
	if p.ends != nil {
		o.batch = nil
	}
	return p
}

// abandon gives up what is left of the batch that was taken from the queue.
func (o *pieceReader) abandon() {
	if o.batch != nil {
		o.batch.markWritten()
		o.batch = nil
	}
}

// canMerge reports whether the next piece is there and may follow text of so many bytes
// in one frame. After no bytes, which is a ping, nothing may.
func (o *pieceReader) canMerge(size int) bool {
	if size == 0 || !o.tryNext() {
		return false
	}
	next := len(o.peek().text)
	return next > 0 && size+1+next <= protocol.MaxFrame
}
