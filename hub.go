package main

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"chat/internal/backlog"
	"chat/internal/history"
	"chat/internal/metrics"
	"chat/internal/presence"
	"chat/internal/protocol"
	"chat/internal/ratelog"
)

// tickPeriod is how often the hub looks for slow writes, due pings and changes of presence.
const tickPeriod = time.Second

// broadcastSize is how many messages may wait for the hub before their senders do.
const broadcastSize = 256

// Hub runs one room. One goroutine, run, owns everything under "owned by run"; everyone
// else reaches it through the channels, and reads the atomic fields.
type Hub struct {
	register     chan *Client                 // clients that come in
	unregister   chan leave                   // clients that go out
	broadcast    chan message                 // what clients say
	clearHistory chan struct{}                // requests to forget what was said
	readHistory  chan chan<- []*history.Entry // requests for what is kept; each has room for the answer
	stopped      chan struct{}                // closed by run when it returns

	logger       *ratelog.Logger
	counters     *metrics.Counters
	backlog      *backlog.Backlog // of all rooms
	lastID       atomic.Int64     // of the last message; 0 before the first, 1 while it is not known. Set by run
	ticks        atomic.Int64     // tick periods since run began, from 1 on. Set by run
	severalSpoke atomic.Bool      // more than one user said something. Set by run

	// owned by run
	clients           map[*Client]bool
	clientsByProtocol [protocol.NumProtocols]int // how many of the clients speak each
	members           *presence.Members          // the users behind the clients
	log               roomLog                    // the order of messages, and the last of them
	builder           batchBuilder               // messages taken from the log and not yet queued
	coalescer         *coalescer                 // when to take the next; writePumps tell it what is written
	scratch           []byte                     // one message in the classic protocol, while it is added
	pingedAt          time.Time                  // when all clients were last pinged
	waits                                        // what waits for the log
}

// A leave is a client that goes out, and why.
type leave struct {
	client *Client
	reason protocol.Disconnect
}

// A message is what a client says, on its way to the hub.
type message struct {
	sender *Client
	protocol.ClientMessage
}

// newHub returns a room without clients, in memory alone, and with ids above afterID. Its
// owner calls run.
func newHub(logger *ratelog.Logger, counters *metrics.Counters, afterID int64) *Hub {
	now := time.Now()
	broadcast := make(chan message, broadcastSize)
	return &Hub{
		register:     make(chan *Client),
		unregister:   make(chan leave),
		broadcast:    broadcast,
		clearHistory: make(chan struct{}),
		readHistory:  make(chan chan<- []*history.Entry),
		stopped:      make(chan struct{}),
		logger:       logger,
		counters:     counters,
		backlog:      backlog.New(),
		clients:      make(map[*Client]bool),
		waits:        waits{held: make(map[*Client]int64)},
		members:      presence.New(now),
		log:          &localLog{history: history.New(now, afterID)},
		coalescer:    newCoalescer(broadcast),
		pingedAt:     now,
	}
}

// offer hands v to the hub on ch, a channel without a buffer. It reports false only if the
// hub has stopped.
func offer[T any](h *Hub, ch chan<- T, v T) bool {
	select {
	case ch <- v:
		return true
	case <-h.stopped:
		return false
	}
}

// run is the life of the room, until ctx is done. Then every client gets what was said so
// far and is disconnected. The clients' pumps outlive run: they have that to write.
func (h *Hub) run(ctx context.Context) {
	defer close(h.stopped)
	h.ticks.Store(1)
	h.openLog()
	ticker := time.NewTicker(tickPeriod)
	defer ticker.Stop()
	for {
		broadcast, committed := h.broadcast, h.log.ready()
		if h.coalescer.holds { // after a batch, until most clients have it: see coalescer
			broadcast, committed = nil, nil
		}
		if h.log.isFull() {
			broadcast = nil
		}
		select {
		case c := <-h.register:
			h.join(c)
		case l := <-h.unregister:
			h.publishWaiting() // what the client said before it left counts
			h.leave(l)
		case m := <-broadcast:
			h.publish(m)
		case <-committed:
			h.deliver()
		case <-h.coalescer.ended:
			h.coalescer.release()
		case <-h.coalescer.timer.C:
			h.coalescer.expire()
		case <-h.clearHistory:
			h.log.clear()
		case reply := <-h.readHistory:
			reply <- h.log.kept()
		case now := <-ticker.C:
			h.tick(now)
		case <-ctx.Done():
			h.shutdown()
			return
		}
	}
}

// join registers a client, or holds it until the log can tell what it missed. One that speaks
// ChatV1 is told in the same turn where it is and what it missed, so that there is neither a
// gap nor an overlap before what is said next.
func (h *Hub) join(c *Client) {
	if !h.log.admits(c) {
		h.hold(c)
		return
	}
	h.clients[c] = true
	h.clientsByProtocol[c.protocol]++
	h.members.Join(c.userID, c.name)
	close(c.admitted)
	if c.protocol == protocol.Classic {
		return
	}
	entries, missed, lastID := h.log.since(c.resumeAfter)
	hello := protocol.Hello{Room: c.room, Name: c.name, UserID: c.userID, LastID: lastID, Missed: missed, URL: c.pageURL}
	greeting := newGreeting(append(append(hello.Encode(), '\n'), h.members.Online().Encode()...), entries)
	greeting.expect(1, h.ticks.Load(), h.backlog)
	c.send.Put(greeting) // its queue is still empty
}

// publish says a message, with all that wait for the hub now.
func (h *Hub) publish(m message) {
	runtime.Gosched() // senders that are about to speak do it now, and share the batch
	h.say(m)
	h.publishWaiting()
}

// publishWaiting says the messages that are in the channel, and delivers what is in order.
func (h *Hub) publishWaiting() {
	h.sayWaiting(len(h.broadcast))
	h.deliver()
}

// deliver sends what the log hands back, in as few batches as it fits into. A repeat, which
// its sender sent again because it did not know whether the first arrived, is answered to its
// sender alone.
func (h *Hub) deliver() {
	now := time.Now()
	taken := h.log.take()
	if reason := h.log.lost(); reason != nil {
		h.dropAll(*reason)
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
		lines := [protocol.NumProtocols][]byte{protocol.Classic: h.scratch, protocol.ChatV1: m.entry.Payload}
		if !h.builder.fits(lines) {
			h.flush()
		}
		h.builder.add(lines, h.clientsByProtocol, now)
	}
	h.flush()
	h.noteLast()
	h.afterDelivery()
}

// flush queues the batch that was built, if there is one, for every client.
func (h *Hub) flush() {
	lines, firstAt := h.builder.messages, h.builder.firstAt
	if lines == 0 {
		return
	}
	b := h.builder.take()
	b.expect(len(h.clients), h.ticks.Load(), h.backlog)
	h.coalescer.begin(b, lines, len(h.clients))
	queued := 0
	for c := range h.clients {
		if h.enqueue(c, b) {
			queued++
		}
	}
	h.coalescer.queued()
	h.counters.Fanout.Add(time.Since(firstAt))
	h.counters.Batches.Add(1)
	h.counters.Messages.Add(int64(lines))
	h.counters.Deliveries.Add(int64(lines * queued))
	if h.backlog.IsFull() {
		h.shed()
	}
}

// tick does what is due once in a tickPeriod or less often.
func (h *Hub) tick(now time.Time) {
	ticks := h.ticks.Add(1)
	maxAge := int64(h.backlog.MaxAge() / tickPeriod)
	for c := range h.clients {
		if reason, overdue := c.isOverdue(ticks, maxAge); overdue {
			h.drop(c, reason)
		}
	}
	h.log.tick(now, h.members)
	h.deliver()
	if now.Sub(h.pingedAt) >= pingPeriod {
		h.pingedAt = now
		h.offerNotice(protocol.Classic, ping)
		h.offerNotice(protocol.ChatV1, ping)
	}
	if h.clientsByProtocol[protocol.ChatV1] > 0 && h.members.Due(now) {
		h.offerNotice(protocol.ChatV1, newNotice(h.members.Online().Encode()))
	}
}

// drop unregisters a client and starts its close handshake. Repeated calls do nothing: a
// client may leave just as it is found to be a slow consumer, and the first reason counts.
func (h *Hub) drop(c *Client, reason protocol.Disconnect) {
	if !h.clients[c] {
		h.dropHeld(c, reason)
		return
	}
	delete(h.clients, c)
	h.clientsByProtocol[c.protocol]--
	h.members.Leave(c.userID)
	wait := closeWait - h.stopTook
	switch {
	case reason == writeTimeout:
		wait = 0 // no close frame would get through
	case reason == slowConsumer && h.backlog.IsFull():
		wait = lingerWait // what is in its queue takes up memory until then
	}
	c.startClose(reason, wait)
}

// shutdown sends what was said so far, disconnects everyone and closes the log.
func (h *Hub) shutdown() {
	begin := time.Now()
	h.awaitLog()
	h.stopTook = time.Since(begin)
	h.dropAll(stopping)
	h.log.close()
}
