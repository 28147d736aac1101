package main

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"chat/internal/backlog"
	"chat/internal/history"
	"chat/internal/metrics"
	"chat/internal/natslog"
	"chat/internal/presence"
	"chat/internal/protocol"
	"chat/internal/ratelog"
)

// tickPeriod is how often the hub looks for slow writes, due pings and changes of presence.
const tickPeriod = time.Second

// broadcastSize is how many messages may wait for the hub before their senders do.
const broadcastSize = 256

// Hub runs one room. One goroutine, run, owns everything under "owned by run". Everyone else
// uses the channels, reads the atomic fields, and reports to the coalescer.
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
	coalescer    *coalescer       // when run takes the next messages. Pumps call messageWaits and mostWritten, run the rest
	lastID       atomic.Int64     // of the last message; 0 before the first; 1, which none has, while it is not known. Set by run
	ticks        atomic.Int64     // tick periods since run began, from 1 on. Set by run
	severalSpoke atomic.Bool      // more than one user said something. Set by run

	// owned by run
	clients           map[*Client]bool           // that are in the room
	waiting           map[*Client]int64          // that the log does not admit yet, and the tick since which they wait
	leaving           []pendingLeave             // in the order in which the clients leave
	clientsByProtocol [protocol.NumProtocols]int // how many of the clients speak each
	members           *presence.Members          // the users behind the clients
	log               roomLog                    // the order of messages, and the last of them
	builder           batchBuilder               // messages taken from the log and not yet queued
	scratch           []byte                     // one message in the classic protocol, while it is added
	received          int64                      // messages taken from the broadcast channel
	pingedAt          time.Time                  // when all clients were last pinged
	logWaited         time.Duration              // how long a stop waited for the log: closeWait is shorter by that
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

// newHub returns a room without clients, whose messages are in a log. A backlog, of all rooms,
// bounds what waits to be written. The caller calls run, and never uses the log again.
func newHub(logger *ratelog.Logger, counters *metrics.Counters, backlog *backlog.Backlog, log roomLog) *Hub {
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
		backlog:      backlog,
		clients:      make(map[*Client]bool),
		waiting:      make(map[*Client]int64),
		members:      presence.New(now),
		log:          log,
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
	h.log.open()
	h.noteLast()
	ticker := time.NewTicker(tickPeriod)
	defer ticker.Stop()
	for {
		broadcast, ready := h.broadcast, h.log.ready()
		if h.coalescer.holds { // after a batch, until most clients have it: see coalescer
			broadcast, ready = nil, nil
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
		case <-ready:
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

// admitTimeout is how long a client may wait for the log: until the room is read, and what is
// read has reached the message after which the client resumes.
const admitTimeout = 10 * time.Second

// join registers a client, or has it wait until the log can tell what it missed.
func (h *Hub) join(c *Client) {
	if h.log.admits(c) {
		h.admit(c)
	} else {
		h.waiting[c] = h.ticks.Load()
	}
}

// admitWaiting registers the clients for which the log has caught up, and disconnects those
// that have waited for admitTimeout.
func (h *Hub) admitWaiting() {
	for c, since := range h.waiting {
		if h.log.admits(c) {
			delete(h.waiting, c)
			h.admit(c)
		} else if h.ticks.Load()-since > int64(admitTimeout/tickPeriod) {
			h.drop(c, natslog.OutOfReach)
		}
	}
}

// admit registers a client. One that speaks ChatV1 is told before anything else is delivered
// where it is and what it missed, so that there is neither a gap nor an overlap.
func (h *Hub) admit(c *Client) {
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
	h.drainBroadcast(len(h.broadcast))
	h.deliver()
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

// leave drops a client that goes out, when what it said was delivered: so it learns which of
// its messages the server took. It waits for that at most as long as a stop does.
func (h *Hub) leave(l leave) {
	if h.log.pending() == 0 {
		h.drop(l.client, l.reason)
		return
	}
	h.leaving = append(h.leaving, pendingLeave{l, h.received + int64(len(h.broadcast)), h.ticks.Load()})
}

// drop unregisters a client and starts its close handshake. Repeated calls do nothing: a
// client may leave just as it is found to be a slow consumer, and the first reason counts.
func (h *Hub) drop(c *Client, reason protocol.Disconnect) {
	_, isWaiting := h.waiting[c]
	switch {
	case h.clients[c]:
		delete(h.clients, c)
		h.clientsByProtocol[c.protocol]--
		h.members.Leave(c.userID)
	case isWaiting:
		delete(h.waiting, c)
	default:
		return
	}
	wait := closeWait - h.logWaited
	switch {
	case reason == writeTimeout:
		wait = 0 // no close frame would get through
	case reason == slowConsumer && h.backlog.IsFull():
		wait = lingerWait // what is in its queue takes up memory until then
	}
	c.startClose(reason, wait)
}

// dropAll drops everyone.
func (h *Hub) dropAll(reason protocol.Disconnect) {
	for c := range h.waiting {
		h.drop(c, reason)
	}
	for c := range h.clients {
		h.drop(c, reason)
	}
}

// shutdown sends what was said so far, disconnects everyone and closes the log.
func (h *Hub) shutdown() {
	begin := time.Now()
	h.awaitCommit()
	h.logWaited = time.Since(begin)
	h.dropAll(stopping)
	h.log.close()
}
