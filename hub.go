package main

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"sort"
	"sync/atomic"
	"time"

	"chat/internal/ratelog"
)

const (
	historyMessages  = 500        // what a hub keeps of what was said, at most
	historyBytes     = 128 * 1024 // and as spelled
	newcomerMessages = 50         // of those, who does not say where it left off

	maxHold = 20 * time.Millisecond // at most, for most to take a batch before the next is made; and a third of that for their answers
	minHold = time.Millisecond      // what is less is not worth a timer, which may be as late as that

	maxNames          = 50               // people up to whom all are named
	presenceInterval  = time.Second      // between two tellings of who is here
	largeRoom         = 1000             // people above whom
	largeRoomInterval = 10 * time.Second // it is this, so that ten thousand arriving do not make a storm
	presenceHeartbeat = 30 * time.Second // without any change, so that a page can tell a dead line
)

// Hub is the room. One goroutine, run, owns everything under "owned by run";
// everyone else reaches it through the channels, by offer.
type Hub struct {
	register     chan *Client  // who comes in
	unregister   chan leave    // who goes, and how
	broadcast    chan message  // what is said
	clearHistory chan struct{} // all that was said
	stopped      chan struct{} // closed by run when it returns

	journal     *ratelog.Logger
	counters    *counters
	hasHistory  atomic.Bool   // something was said; set by run
	tickCount   atomic.Int64  // counted by run, from 1
	mostWritten chan struct{} // most have taken a batch

	// owned by run
	clients           map[*Client]bool
	clientsByProtocol [numProtocols]int  // how many clients there are on each wire
	members           map[string]*member // those clients' users, by from
	history           *history
	text              [numProtocols][]byte // the batch being gathered, on those wires that somebody speaks
	batched           int                  // messages in it
	firstAt           time.Time            // when the first of them was taken
	line              []byte               // scratch: one message on the classic wire
	holding           bool                 // what is said gathers, until
	holdTimer         *time.Timer          // runs out
	flushedAt         time.Time            // when all had been given the last batch
	membersChanged    bool                 // people, since
	announcedAt       time.Time            // when it was last told who is here
	pingedAt          time.Time            // when all were last pinged
}

// A leave is a client that goes, and how its connection ends.
type leave struct {
	client     *Client
	disconnect disconnect
}

// A member is somebody who is here, with any number of tabs.
type member struct {
	name        string // as given last
	connections int
}

func newHub(j *ratelog.Logger, c *counters) *Hub {
	return &Hub{
		register:     make(chan *Client),
		unregister:   make(chan leave),
		broadcast:    make(chan message, 256), // so that those who speak at once share a batch
		clearHistory: make(chan struct{}),
		stopped:      make(chan struct{}),
		journal:      j,
		counters:     c,
		mostWritten:  make(chan struct{}, 1),
		holdTimer:    time.NewTimer(0),
		clients:      make(map[*Client]bool),
		members:      make(map[string]*member),
		history:      newHistory(time.Now()),
	}
}

// offer hands v to the hub on ch. It reports false if the hub has stopped.
func offer[T any](h *Hub, ch chan<- T, v T) bool {
	select {
	case ch <- v:
		return true
	case <-h.stopped:
		return false
	}
}

// run is the life of the room, until ctx is done. Then everyone hears what has
// been said so far and is let go. Pumps outlive it: they still have that to write.
func (h *Hub) run(ctx context.Context) {
	defer close(h.stopped)
	h.announcedAt, h.pingedAt = time.Now(), time.Now()
	h.tickCount.Store(1)
	ticks := time.NewTicker(presenceInterval)
	defer ticks.Stop()
	for {
		// While most are still taking a batch, and a third of that time longer, what is
		// said gathers: many of those who hear it are about to answer, and one batch with
		// all the answers costs each client one write.
		broadcast := h.broadcast
		if h.holding {
			broadcast = nil
		}
		select {
		case <-h.mostWritten:
			switch took := time.Since(h.flushedAt); {
			case took < 3*minHold:
				h.holding = false
			case took < maxHold: // else patience runs out by itself
				h.holdTimer.Reset(took / 3)
			}
		case <-h.holdTimer.C:
			h.holding = false
		case client := <-h.register:
			h.admit(client)
		case d := <-h.unregister:
			h.drainBroadcast() // what it said before it went counts
			h.drop(d.client, d.disconnect)
		case m := <-broadcast:
			runtime.Gosched() // whoever is about to speak does it now, and shares the batch
			h.add(m)
			h.drainBroadcast()
		case <-h.clearHistory:
			h.history = newHistory(time.Now())
		case now := <-ticks.C:
			h.tick(now)
		case <-ctx.Done():
			h.drainBroadcast()
			for client := range h.clients {
				h.drop(client, stopping)
			}
			return
		}
	}
}

// admit lets a client in. One on chat.v1 is told in the same turn where it is and
// what was said, so that there is neither a gap before what is said next nor an overlap.
func (h *Hub) admit(c *Client) {
	h.clients[c] = true
	h.clientsByProtocol[c.protocol]++
	p := h.members[c.userID]
	if p == nil {
		p = new(member)
		h.members[c.userID] = p
	}
	p.name = c.shownName()
	p.connections++
	h.membersChanged = true
	if c.protocol == classic {
		return
	}
	replay, missed := h.history.since(c.resumeAfter)
	text := encode(hello{"hello", c.room, c.shownName(), c.userID, maxText, h.history.lastID, missed})
	text = append(append(text, '\n'), h.online()...)
	b := &batch{replay: replay}
	b.payloads[chatV1].text = text
	c.send <- b // its queue is still empty
}

// drainBroadcast takes what waits on broadcast, and gives everyone all that is gathered.
func (h *Hub) drainBroadcast() {
	for n := len(h.broadcast); n > 0; n-- {
		h.add(<-h.broadcast)
	}
	h.flush()
}

// add adds a message to the batch, unless its sender was dropped since. One that
// the sender has sent before, not knowing whether it arrived, was heard by everyone
// else: the sender alone is told again.
func (h *Hub) add(m message) {
	if !h.clients[m.sender] {
		return
	}
	if k := h.history.byKey[dedupeKey{m.sender.userID, m.clientMsgID}]; k != nil {
		h.flush()
		if h.clients[m.sender] { // and was not found too slow just now
			h.enqueue(m.sender, &batch{replay: []*entry{k}})
		}
		return
	}
	now := time.Now()
	k := h.history.add(m, now)
	h.hasHistory.Store(true)
	h.line = m.appendClassic(h.line[:0])
	lines := [numProtocols][]byte{classic: h.line, chatV1: k.payload}
	for w, line := range lines {
		if len(h.text[w])+1+len(line) > maxFrame {
			h.flush()
		}
	}
	if h.batched == 0 {
		h.firstAt = now
	}
	h.batched++
	for w, line := range lines {
		if h.clientsByProtocol[w] == 0 {
			continue
		}
		if len(h.text[w]) > 0 {
			h.text[w] = append(h.text[w], '\n')
		}
		h.text[w] = append(h.text[w], line...)
	}
}

// flush gives everyone the batch gathered so far.
func (h *Hub) flush() {
	if h.batched == 0 {
		return
	}
	b := new(batch)
	for w, text := range h.text {
		if len(text) > 0 {
			b.payloads[w] = newPayload(text)
			h.text[w] = text[:0]
		}
	}
	h.holding = true
	h.holdTimer.Reset(maxHold)
	b.count(len(h.clients), h.mostWritten)
	given := 0
	for client := range h.clients {
		if h.enqueue(client, b) {
			given++
		}
	}
	h.flushedAt = time.Now()
	h.counters.fanout.add(h.flushedAt.Sub(h.firstAt))
	h.counters.batches.Add(1)
	h.counters.messages.Add(int64(h.batched))
	h.counters.deliveries.Add(int64(h.batched * given))
	h.batched = 0
}

// enqueue hands a client a batch. One whose queue is full is dropped, and give reports
// false: to wait for it would be to let it decide how fast all others hear.
func (h *Hub) enqueue(c *Client, b *batch) bool {
	select {
	case c.send <- b:
		return true
	default:
		h.drop(c, slowConsumer)
		return false
	}
}

// offerNotice hands a batch to those clients on a wire who have room for it: the others
// have something better to read.
func (h *Hub) offerNotice(w protocol, b *batch) {
	for c := range h.clients {
		if c.protocol != w {
			continue
		}
		select {
		case c.send <- b:
		default:
		}
	}
}

// tick does what is to be done from time to time.
func (h *Hub) tick(now time.Time) {
	second := h.tickCount.Add(1)
	for c := range h.clients {
		if end := c.writeDeadlineTick.Load(); end > 0 && second > end {
			h.drop(c, writeTimeout)
			c.conn.Close() // there is no way to tell it
		}
	}
	if now.Sub(h.pingedAt) >= pingPeriod {
		h.pingedAt = now
		h.offerNotice(classic, ping)
		h.offerNotice(chatV1, ping)
	}
	pause := presenceInterval
	if len(h.members) > largeRoom {
		pause = largeRoomInterval
	}
	since := now.Sub(h.announcedAt)
	if h.clientsByProtocol[chatV1] > 0 && (h.membersChanged && since >= pause || since >= presenceHeartbeat) {
		h.announcedAt, h.membersChanged = now, false
		b := new(batch)
		b.payloads[chatV1] = newPayload(h.online())
		h.offerNotice(chatV1, b)
	}
}

// online returns who is here, spelled.
func (h *Hub) online() []byte {
	o := online{Type: "online", Count: len(h.members)}
	if o.Count <= maxNames {
		for p := range maps.Values(h.members) {
			o.Names = append(o.Names, p.name)
		}
		slices.Sort(o.Names)
	}
	return encode(o)
}

// label lets a client go: it is not heard from now on, and has closeWait to hear
// what is in its queue and its ending. It may come twice, for a client found
// too slow as it leaves: the first counts.
func (h *Hub) drop(c *Client, e disconnect) {
	if !h.clients[c] {
		return
	}
	delete(h.clients, c)
	h.clientsByProtocol[c.protocol]--
	if p := h.members[c.userID]; p.connections > 1 {
		p.connections--
	} else {
		delete(h.members, c.userID)
	}
	h.membersChanged = true
	c.startClose(e)
}

// history is what was said last in a room. Only its hub's run uses it, but what it
// hands out is never written to again.
type history struct {
	entries []*entry             // oldest first; entries are only ever added behind its end
	bytes   int                  // of all their lines
	byKey   map[dedupeKey]*entry // those that have one
	lastID  int64                // id of the last message
	goneID  int64                // id of the last message that is no longer kept
}

// A dedupeKey is what a sender knows its message by.
type dedupeKey struct{ userID, clientMsgID string }

// newHistory returns an empty one, from whose ids one can tell that it began at now:
// who knows of an earlier one may have missed something.
func newHistory(now time.Time) *history {
	return &history{byKey: make(map[dedupeKey]*entry), lastID: now.UnixMicro(), goneID: now.UnixMicro()}
}

// add keeps a message said now, and gives it the next id: the microseconds since
// 1970, so that ids grow over a restart too, or one more than the last.
func (h *history) add(m message, now time.Time) *entry {
	h.lastID = max(h.lastID+1, now.UnixMicro())
	k := m.newEntry(h.lastID, now)
	h.entries = append(h.entries, k)
	h.bytes += len(k.payload)
	if m.clientMsgID != "" {
		h.byKey[dedupeKey{k.userID, k.clientMsgID}] = k
	}
	for len(h.entries) > historyMessages || h.bytes > historyBytes {
		first := h.entries[0]
		h.entries = h.entries[1:]
		h.bytes -= len(first.payload)
		h.goneID = first.id
		if first.clientMsgID != "" {
			delete(h.byKey, dedupeKey{first.userID, first.clientMsgID})
		}
	}
	return k
}

// since returns the kept messages after an id, and whether more may have been said
// after it than is kept. For an id not known here it is the last few, as for a newcomer.
func (h *history) since(after position) (replay []*entry, missed bool) {
	first := max(0, len(h.entries)-newcomerMessages)
	switch {
	case after == noPosition:
	case after > position(h.lastID):
		missed = true
	default:
		missed = int64(after) < h.goneID
		first = sort.Search(len(h.entries), func(i int) bool { return h.entries[i].id > int64(after) })
	}
	return h.entries[first:len(h.entries):len(h.entries)], missed
}
