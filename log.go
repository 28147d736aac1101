package main

import (
	"time"

	"chat/internal/filelog"
	"chat/internal/history"
	"chat/internal/natslog"
	"chat/internal/presence"
	"chat/internal/protocol"
)

// logWait is how long a stop waits until what was said is in the log, and delivered. What is
// left of the five seconds is for the clients.
const logWait = 2 * time.Second

// maxHoldTicks is how many ticks a client may wait until its room is read from the log.
const maxHoldTicks = 10

// A roomLog puts what is said in a room into an order, keeps the last of it, and hands it
// back to be delivered. A hub delivers nothing else. In memory and in a file it hands back in
// the same turn of the hub what was said in it; over NATS later, with what other servers say.
//
// The hub's goroutine alone calls the methods.
type roomLog interface {
	open() // begins; called once, first

	isFull() bool               // senders are to wait
	say(m message)              // not while isFull
	ready() <-chan struct{}     // receives when take has something without say; nil for never
	take() (taken []committed)  // what is to be delivered, in order; the caller uses it up before it calls again
	lost() *protocol.Disconnect // why all clients are to be disconnected after take; nil if they are not
	pending() int               // how many messages were said and not taken

	// admits reports whether a client can be told now what it missed. If not, it can be
	// later, or after the next tick.
	admits(c *Client) bool
	forget(c *Client) // it need not be admitted any more

	// since returns the messages that a client gets that resumes after a position, whether
	// it may have missed others, and the position from which it may resume next.
	since(p history.Position) (entries []*history.Entry, missed bool, lastID int64)

	// kept returns the messages that are kept, oldest first; nil if there are none, or they
	// are not read yet.
	kept() []*history.Entry

	// last returns the id of the last message, 0 if there is none, or 1 if that is not known
	// yet; and whether more than one user said something.
	last() (id int64, severalSpoke bool)

	tick(now time.Time, ms *presence.Members) // called once a tickPeriod
	clear()                                   // forgets what was said, if it is nowhere else
	close()                                   // called once, last
}

// A committed is a message that has its place in the log.
type committed struct {
	entry    *history.Entry
	name     string // as its sender gave it
	text     string
	isRepeat bool    // it was said before, and is said again
	repeatTo *Client // who says it again; nil if that is no client of this server
}

// A localLog is a room's log in memory, and in a file if there is one.
type localLog struct {
	history *history.History
	file    *filelog.Log // has what the history keeps; nil without -history
	said    []message    // since the last take
	taken   []committed  // by the last take
}

func (l *localLog) open() { l.history = l.file.Open(l.history) }

func (l *localLog) isFull() bool { return false }

func (l *localLog) say(m message) { l.said = append(l.said, m) }

func (l *localLog) ready() <-chan struct{} { return nil }

// take gives the messages their ids. Before it returns they are in the room's file: nobody
// receives what a restart would lose. A duplicate, which its sender sends again because it
// does not know whether the first arrived, is one that is still in history.
func (l *localLog) take() []committed {
	clear(l.taken)
	l.taken = l.taken[:0]
	if len(l.said) == 0 {
		return nil
	}
	now := time.Now()
	uncommitted := 0 // bytes
	for _, m := range l.said {
		if e := l.history.Find(m.sender.userID, m.ClientMsgID); e != nil {
			l.taken = append(l.taken, committed{entry: e, repeatTo: m.sender, isRepeat: true})
			continue
		}
		msg := protocol.Message{UserID: m.sender.userID, Name: m.sender.name, Text: m.Text, ClientMsgID: m.ClientMsgID}
		e := l.history.Add(msg, now)
		l.taken = append(l.taken, committed{entry: e, name: msg.Name, text: msg.Text})
		if uncommitted += len(e.Payload); uncommitted > protocol.MaxFrame { // long before the history evicts it
			l.file.Commit(l.history)
			uncommitted = 0
		}
	}
	l.file.Commit(l.history)
	clear(l.said)
	l.said = l.said[:0]
	return l.taken
}

func (l *localLog) lost() *protocol.Disconnect { return nil }

func (l *localLog) pending() int { return len(l.said) }

func (l *localLog) admits(*Client) bool { return true }

func (l *localLog) forget(*Client) {}

func (l *localLog) since(p history.Position) (entries []*history.Entry, missed bool, lastID int64) {
	entries, missed = l.history.Since(p)
	return entries, missed, l.history.LastID()
}

func (l *localLog) kept() []*history.Entry { return keptOf(l.history) }

func keptOf(h *history.History) []*history.Entry {
	kept, _ := h.Kept()
	return kept
}

func (l *localLog) last() (id int64, severalSpoke bool) { return lastOf(l.history) }

func lastOf(h *history.History) (id int64, severalSpoke bool) {
	if len(keptOf(h)) > 0 {
		id = h.LastID()
	}
	return id, h.SeveralSpoke()
}

func (l *localLog) tick(now time.Time, _ *presence.Members) {
	if l.file.Expired(l.history, now) {
		l.history = history.New(now, l.history.LastID())
	}
	l.file.Commit(l.history) // what could not be written before
}

func (l *localLog) clear() {
	if l.file == nil { // else it would be read again
		l.history = history.New(time.Now(), l.history.LastID())
	}
}

func (l *localLog) close() { l.file.Close(l.history) }

// A sharedLog is a room's log that other servers share, over NATS.
type sharedLog struct {
	stream  *natslog.Stream
	room    string
	log     *natslog.Log // nil before open
	history *history.History
	taken   []committed
	reason  *protocol.Disconnect
	came    map[*Client]natslog.Arrival // clients that are not admitted yet
	isRead  bool                        // the room was read from the stream
}

func newSharedLog(stream *natslog.Stream, room string) *sharedLog {
	return &sharedLog{stream: stream, room: room, history: history.Begin(0), came: make(map[*Client]natslog.Arrival)}
}

func (l *sharedLog) open() { l.log = l.stream.Log(l.room) }

func (l *sharedLog) isFull() bool { return l.log.IsFull() }

func (l *sharedLog) say(m message) {
	l.log.Say(natslog.Line{UserID: m.sender.userID, Name: m.sender.name, Text: m.Text, ClientMsgID: m.ClientMsgID}, m.sender)
}

func (l *sharedLog) ready() <-chan struct{} { return l.log.Ready() }

func (l *sharedLog) take() []committed {
	clear(l.taken)
	l.taken = l.taken[:0]
	t := l.log.Take()
	l.reason = t.Lost
	if t.Start != nil {
		l.history, l.isRead = historyOf(t.Start), true
	}
	for _, h := range t.Lines {
		c := committed{name: h.Name, text: h.Text, isRepeat: h.Repeat}
		if h.Repeat {
			c.repeatTo, _ = h.Sender.(*Client)
			c.entry = &history.Entry{ID: h.ID, Payload: h.Encode()}
		} else {
			c.entry = l.history.Keep(h.Message)
		}
		l.taken = append(l.taken, c)
	}
	return l.taken
}

// historyOf returns the history of a room that was read from the stream.
func historyOf(start *natslog.Start) *history.History {
	h := history.Begin(start.GoneID)
	for _, m := range start.Messages {
		h.Keep(m)
	}
	return h
}

func (l *sharedLog) lost() *protocol.Disconnect { return l.reason }

func (l *sharedLog) pending() int { return l.log.Pending() }

func (l *sharedLog) admits(c *Client) bool {
	arrival, waits := l.came[c]
	if !waits {
		arrival = l.log.Arrival()
	}
	id := int64(0)
	if c.protocol == protocol.ChatV1 && c.resumeAfter != history.NoPosition && c.resumeAfter != history.UnknownPosition {
		id = int64(c.resumeAfter)
	}
	if !l.log.Admits(id, arrival) {
		l.came[c] = arrival
		return false
	}
	delete(l.came, c)
	return true
}

func (l *sharedLog) forget(c *Client) { delete(l.came, c) }

// since accepts any position up to the end of what was read of the stream. One after the
// room's last message is of a message in another room, or was in the hello of a client that
// found nothing kept.
func (l *sharedLog) since(p history.Position) (entries []*history.Entry, missed bool, lastID int64) {
	lastID = l.history.LastID()
	if p != history.NoPosition && p <= history.Position(l.log.LostID()) {
		p = history.UnknownPosition
	}
	if p <= history.Position(l.log.EndID()) {
		p = min(p, history.Position(lastID))
	}
	entries, missed = l.history.Since(p)
	if len(l.kept()) == 0 {
		lastID = l.log.EndID()
	}
	return entries, missed, lastID
}

func (l *sharedLog) kept() []*history.Entry { return keptOf(l.history) }

func (l *sharedLog) last() (id int64, severalSpoke bool) {
	if !l.isRead {
		return 1, false
	}
	return lastOf(l.history)
}

func (l *sharedLog) tick(_ time.Time, ms *presence.Members) {
	if crowd, moved := ms.Local(); moved {
		l.log.Here(crowd)
	}
	if crowds, changed := l.log.Elsewhere(); changed {
		ms.SetElsewhere(crowds)
	}
}

func (l *sharedLog) clear() {} // it would be read again

func (l *sharedLog) close() { l.log.Close() }

// waits is the part of a Hub that has to do with a log that takes its time. The Hub's run
// owns it.
type waits struct {
	held     map[*Client]int64 // clients that wait to be admitted, and since which tick
	leaving  []leaving         // clients that wait until what they said was delivered, in the order of that
	said     int64             // how many messages were said
	stopTook time.Duration     // how much of a stop's time has passed
}

// A leaving is a client that goes out as soon as so many messages were delivered.
type leaving struct {
	leave
	after int64
	since int64 // tick
}

// leave drops a client that goes out, when what it said was delivered: so it learns which of
// its messages the server took. The client waits no longer than a stop does.
func (h *Hub) leave(l leave) {
	if h.log.pending() == 0 {
		h.drop(l.client, l.reason)
		return
	}
	h.leaving = append(h.leaving, leaving{l, h.said + int64(len(h.broadcast)), h.ticks.Load()})
}

// afterDelivery drops and admits clients that waited for what was delivered.
func (h *Hub) afterDelivery() {
	delivered := h.said - int64(h.log.pending())
	for len(h.leaving) > 0 {
		l := h.leaving[0]
		if l.after > delivered && time.Duration(h.ticks.Load()-l.since)*tickPeriod <= logWait {
			break
		}
		h.leaving = h.leaving[1:]
		h.drop(l.client, l.reason)
	}
	h.admit()
}

// openLog begins the log.
func (h *Hub) openLog() {
	h.log.open()
	h.noteLast()
}

// hold has a client wait until the log admits it. It does nothing for one that waits.
func (h *Hub) hold(c *Client) {
	if _, waits := h.held[c]; !waits {
		h.held[c] = h.ticks.Load()
	}
}

// dropHeld disconnects a client that waits to be admitted. It does nothing for any other.
func (h *Hub) dropHeld(c *Client, reason protocol.Disconnect) {
	if _, waits := h.held[c]; waits {
		delete(h.held, c)
		h.log.forget(c)
		c.startClose(reason, closeWait-h.stopTook)
	}
}

// admit registers the held clients that can be told now what they missed, and disconnects
// those that have waited for too long.
func (h *Hub) admit() {
	for c, since := range h.held {
		if h.ticks.Load()-since > maxHoldTicks {
			h.dropHeld(c, natslog.OutOfReach)
		} else if h.join(c); h.clients[c] {
			delete(h.held, c)
		}
	}
}

// dropAll disconnects everyone.
func (h *Hub) dropAll(reason protocol.Disconnect) {
	for c := range h.held {
		h.drop(c, reason)
	}
	for c := range h.clients {
		h.drop(c, reason)
	}
}

// say hands a message to the log, unless its sender was disconnected as a slow consumer since
// it sent it.
func (h *Hub) say(m message) {
	if m.sender.isSlowConsumer() {
		return
	}
	h.log.say(m)
	h.said++
}

// sayWaiting says up to n messages that are in the channel, and returns how many.
func (h *Hub) sayWaiting(n int) (said int) {
	for ; said < n && !h.log.isFull(); said++ {
		h.say(<-h.broadcast)
	}
	return said
}

// noteLast sets the atomic fields that show what was said.
func (h *Hub) noteLast() {
	id, severalSpoke := h.log.last()
	if h.log.pending() > 0 {
		id = max(id, 1) // something was said, though it has no id yet
	}
	if last := h.lastID.Load(); id > last || last == 1 {
		h.lastID.Store(id)
		h.severalSpoke.Store(severalSpoke)
	}
}

// awaitLog says the messages that wait, and delivers them when they are in the log. It gives
// up after logWait.
func (h *Hub) awaitLog() {
	timeout := time.NewTimer(logWait)
	defer timeout.Stop()
	for left := len(h.broadcast); ; {
		left -= h.sayWaiting(left)
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
