package main

import (
	"sync"
	"sync/atomic"
	"time"

	"chat/internal/backlog"
	"chat/internal/history"
	"chat/internal/protocol"
)

// A batch is what the hub puts into clients' queues: several messages for everyone, a
// notice, a ping, or something for one client. One batch serves all clients; nobody
// changes it once it is queued.
type batch struct {
	payloads [protocol.NumProtocols]payload
	replay   []*history.Entry // for one client, in ChatV1: kept messages, sent after the payload

	tick    int64            // the hub's, when it was queued; 0 for a ping or a repeat
	pending atomic.Int32     // clients that have it in their queue
	backlog *backlog.Backlog // counts the batch's memory while pending is not 0; nil for a ping or a repeat

	// For messages, whose writing the coalescer waits for.
	coalescer  *coalescer // nil for any other batch
	stragglers int32      // how many clients need not be waited for
}

// size returns about how many bytes of memory the batch takes up. A replay is not counted:
// its messages are shared with the history and with other replays.
func (b *batch) size() (bytes int64) {
	for _, p := range b.payloads {
		bytes += int64(len(p.text))
	}
	return bytes
}

// expect notes that the batch is to be queued for so many clients in a tick of the hub, and
// counts its memory until each of them called markWritten.
func (b *batch) expect(clients int, tick int64, bl *backlog.Backlog) {
	b.pending.Store(int32(clients))
	b.tick, b.backlog = tick, bl
	bl.Add(b.size())
}

// A payload is what a batch says in one protocol. It is empty if no client speaks that.
type payload struct {
	text  []byte // lines joined by newlines, at most protocol.MaxFrame bytes
	frame []byte // the text, or a ping, as a frame for all clients; nil for a greeting
}

// newPayload returns a payload of its own copy of a text.
func newPayload(text []byte) payload {
	var frame protocol.TextFrame
	frame.Add(text)
	return payload{frame.Text(), frame.Bytes()}
}

// newNotice returns a batch that tells clients that speak ChatV1 something.
func newNotice(text []byte) *batch {
	b := new(batch)
	b.payloads[protocol.ChatV1] = newPayload(text)
	return b
}

// newGreeting returns the first batch for a client that speaks ChatV1: a text, and what
// it missed.
func newGreeting(text []byte, missed []*history.Entry) *batch {
	b := &batch{replay: missed}
	b.payloads[protocol.ChatV1].text = text
	return b
}

// newRepeat returns a batch that tells the sender of a message, which speaks ChatV1,
// that it was said already.
func newRepeat(e *history.Entry) *batch {
	return &batch{replay: []*history.Entry{e}}
}

// ping is the batch that asks every client for a sign of life.
var ping = &batch{payloads: [protocol.NumProtocols]payload{
	protocol.Classic: {frame: protocol.PingFrame},
	protocol.ChatV1:  {frame: protocol.PingFrame},
}}

// markWritten notes that the batch was written to one more client, or is about to be, or
// never will be. It is called once for each client that the batch was expected for.
func (b *batch) markWritten() {
	if b.backlog == nil {
		return
	}
	pending := b.pending.Add(-1)
	if b.coalescer != nil && pending == b.stragglers {
		b.coalescer.mostWritten(b, time.Now())
	}
	if pending == 0 {
		b.backlog.Add(-b.size())
	}
}

// A batchBuilder joins messages to a batch. Its zero value is ready for use.
type batchBuilder struct {
	texts    [protocol.NumProtocols][]byte // joined by newlines
	messages int                           // messages so far
	firstAt  time.Time                     // when the first of them was added
}

// fits reports whether the frames of the batch have room for a message, given as a line
// in each protocol.
func (bb *batchBuilder) fits(lines [protocol.NumProtocols][]byte) bool {
	for p, line := range lines {
		size := len(bb.texts[p])
		if size > 0 {
			size++ // the newline between
		}
		if size+len(line) > protocol.MaxFrame {
			return false
		}
	}
	return true
}

// add adds a message, given as a line in each protocol, in those that clients speak.
func (bb *batchBuilder) add(lines [protocol.NumProtocols][]byte, clients [protocol.NumProtocols]int, now time.Time) {
	if bb.messages == 0 {
		bb.firstAt = now
	}
	bb.messages++
	for p, line := range lines {
		if clients[p] == 0 {
			continue
		}
		if len(bb.texts[p]) > 0 {
			bb.texts[p] = append(bb.texts[p], '\n')
		}
		bb.texts[p] = append(bb.texts[p], line...)
	}
}

// build returns the batch and begins the next one. There must be a message in it.
func (bb *batchBuilder) build() *batch {
	b := new(batch)
	for p, text := range bb.texts {
		if len(text) > 0 {
			b.payloads[p] = newPayload(text)
			bb.texts[p] = text[:0] // the buffer serves again
		}
	}
	bb.messages = 0
	return b
}

const (
	// maxHold is how long a coalescer holds messages back after a batch, at most.
	maxHold = 60 * time.Millisecond

	// stallTime is how long a coalescer waits for one more client to be written the batch.
	// Clients that do not read hold up the others no longer than twice that.
	stallTime = 10 * time.Millisecond

	// answerFactor is how long a coalescer waits for answers, as a multiple of the time that
	// writing the batch to most clients took.
	answerFactor = 2

	// minHold is the shortest wait that is worth a timer, which may fire that much late.
	minHold = time.Millisecond
)

// A coalescer decides when the hub takes the next messages (write coalescing). Many of
// those who receive a batch are about to answer. One batch with all their answers costs
// each client one write; a batch for each answer costs a write each.
//
// A hold begins when a batch of messages is queued for everyone. Until it ends, the hub
// leaves new messages in its channel, where they gather. When the batch is written to most
// clients, the hold ends, whichever comes first,
//
//  1. at once, if that took less than three times minHold: a small or quiet room never
//     waits;
//  2. when as many messages wait as the hold's batches had: everyone has answered. In a quiet
//     room this is one message;
//  3. after twice the time that it took.
//
// A hold also ends
//
//  4. when in a stallTime the batch was written to no further client;
//  5. maxHold after its last batch was queued.
//
// The hub also queues batches during a hold: when a client leaves, whose messages are sent first,
// in a tick, before a repeat, when a batch is full, and at a stop. Each restarts the hold, which
// goes on from there.
//
// Most clients are all but one and a sixteenth of them. The hub calls the methods, except
// mostWritten, which the writePumps call, and messageWaits, which the readPumps call.
type coalescer struct {
	ended    chan struct{} // receives when the hold is to end
	timer    *time.Timer   // fires when the hold may have to end: then expire is to be called
	holds    bool          // a hold has begun and not ended
	waiting  func() int    // returns how many messages wait for the hub
	capacity int           // how many can wait

	// enough is how many messages must wait for the hold to end; 0 for as long as the batch
	// is not written to most clients, and after the end.
	enough atomic.Int32

	mu      sync.Mutex
	current *batch    // the one that the hold is for; nil once it is written to most
	pending int32     // how many clients were still to be written the batch when the timer was set
	lines   int       // how many messages were handed out since the last hold ended, up to capacity
	begun   time.Time // when its last batch began to be queued
	since   time.Time // when the batch was in every queue
}

// newCoalescer returns a coalescer for messages that wait in a channel. It holds nothing yet.
func newCoalescer[T any](messages <-chan T) *coalescer {
	timer := time.NewTimer(maxHold)
	timer.Stop()
	return &coalescer{
		ended:    make(chan struct{}, 1),
		timer:    timer,
		waiting:  func() int { return len(messages) },
		capacity: cap(messages),
	}
}

// begin begins a hold for a batch of so many messages, which is to be queued for so many
// clients.
func (c *coalescer) begin(b *batch, lines, clients int) {
	b.coalescer = c
	b.stragglers = int32(min(clients-1, 1+clients/16)) // one that does not read does not hold up the others
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.holds {
		c.holds, c.lines = true, 0
	}
	c.lines = min(c.lines+lines, c.capacity)
	c.enough.Store(0)
	c.current, c.pending = b, int32(clients)
	c.begun = time.Now()
	c.since = c.begun
	c.timer.Reset(stallTime)
	select {
	case <-c.ended: // the hold before
	default:
	}
}

// queued notes that the batch is in every client's queue. The time that most of them take
// counts from here.
func (c *coalescer) queued() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since = time.Now()
}

// mostWritten notes that a batch is written to most clients. It may come late, for a batch
// before the current one: then it does nothing.
func (c *coalescer) mostWritten(b *batch, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != b {
		return
	}
	c.current = nil
	took := now.Sub(c.since)
	if took < 3*minHold || c.waiting() >= c.lines {
		c.ended <- struct{}{}
		return
	}
	c.enough.Store(int32(c.lines))
	c.timer.Reset(min(answerFactor*took, maxHold-now.Sub(c.begun)))
}

// messageWaits notes that one more message waits for the hub.
func (c *coalescer) messageWaits() {
	if enough := c.enough.Load(); enough == 0 || c.waiting() < int(enough) {
		return // nearly always, and without the lock
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if enough := c.enough.Load(); enough > 0 && c.waiting() >= int(enough) { // as before
		c.enough.Store(0)
		c.ended <- struct{}{}
	}
}

// expire ends the hold, unless the batch is still being written to clients.
func (c *coalescer) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil && time.Since(c.begun) < maxHold {
		if pending := c.current.pending.Load(); pending < c.pending {
			c.pending = pending
			c.timer.Reset(stallTime)
			return
		}
	}
	c.holds, c.current = false, nil
	c.enough.Store(0)
}

// release ends the hold.
func (c *coalescer) release() { c.holds = false }
